"""Tables of detection: twenty seeds of each synthetic fault, the real logs that lie beside the repository, and the two
faces of the detectors, whole runs and row by row, against each other.

The scenarios are those of tests/detectors, which CI holds to their limits; here their figures are shown. The real logs
are read and examined as `postmortem draft` would.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from _measure import ROOT, machine, options, publish, say

sys.path.insert(0, str(ROOT))

from postmortem.detectors import DetectedIncident, Telemetry, detectors, find_incidents, live
from postmortem.pipeline import detect
from postmortem.sources import open_run
from tests.detectors.helpers import telemetry
from tests.detectors.live_runs import departures, excursions, follow, offline
from tests.detectors.scenarios import SCENARIOS, STEPS, alarm_lag, at_fault, scenario

REAL_LOGS = ROOT.parent / "shared" / "real_logs"
READABLE = (".csv", ".json", ".jsonl")
PLANTED_BESIDES = {"spike_after_nan": 1, "second_spike": 1}  # incidents of a scenario that are not its fault
MOST_FALSE = 1e-4  # incidents per clean row: what was asked for


def scenarios(seeds: int) -> str:
    """One line per scenario."""
    lines = [
        "| scenario | found | onset error, steps | alarm lag, rows | false incidents per run |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in SCENARIOS:
        say(name)
        errors: list[int] = []
        lags: list[int] = []
        false = missed_alarms = 0
        clean = scenario(name, 0)[1] is None
        for seed in range(seeds):
            loss, fault = scenario(name, seed)
            incidents = find_incidents(telemetry(loss=loss))
            if fault is None:
                false += len(incidents)
                continue
            found = at_fault(incidents, fault)
            errors += [found[0].onset_step - fault] if found else []
            false += len(incidents) - min(len(found), 1) - PLANTED_BESIDES.get(name, 0)
            lag = alarm_lag(loss, fault)
            lags += [] if lag is None else [lag]
            missed_alarms += lag is None
        late = f", {missed_alarms} later than 100" if missed_alarms else ""
        lines.append(
            f"| {name.replace('_', ' ')} | {'–' if clean else f'{len(errors)} of {seeds}'} "
            f"| {_spread(errors)} | {_spread(lags)}{late} | {false / seeds:g} |"
        )
    return "\n".join(lines)


def real_logs() -> str:
    """One line per log that a source of the project reads."""
    lines = [
        "| log | label | rows | labelled events found | other incidents |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows = false = 0
    for entry in json.loads((REAL_LOGS / "labels.json").read_text()):
        if entry["label"] == "multi_run_export" or not entry["file"].endswith(READABLE):
            continue
        run = open_run(REAL_LOGS / entry["file"])
        incidents = detect(run)
        must, may = _events(entry)
        near = entry["log_every"]
        found = sum(any(_holds(incident, step, near) for incident in incidents) for step in must)
        others = [i for i in incidents if not any(_holds(i, step, near) for step in (*must, *may))]
        if entry["label"] == "clean":
            rows, false = rows + run.row_steps.size, false + len(incidents)
        kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(i.kind for i in others).most_common())
        lines.append(
            f"| {entry['run_id']} | {entry['label'].replace('_', ' ')} | {run.row_steps.size} "
            f"| {f'{found} of {len(must)}' if must else '–'} | {kinds or '0'} |"
        )
    sums = (
        f"{false} incidents in {rows:,} clean rows; at most one per {1 / MOST_FALSE:,.0f} was asked for, which so few "
        "rows can contradict but not establish."
    )
    return "\n".join((*lines, "", sums))


def faces(seeds: int) -> str:
    """One line per detector that has a live face: what both say, and how many rows the live one needs."""
    both, only_offline, only_live, withdrawn = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    told: defaultdict[str, list[int]] = defaultdict(list)
    sure: defaultdict[str, list[int]] = defaultdict(list)
    runs = rows = 0
    for t in _runs(seeds):
        runs, rows = runs + 1, rows + t.row_steps.size
        said, followed = offline(t), follow(t)
        only_offline.update(detector for detector, _, _, _ in said - followed.settled)
        only_live.update(detector for detector, _, _, _ in followed.settled - said)
        first = {alarm.key: row for row, alarm in reversed(followed.told)}
        final = {alarm.key: row for row, alarm in reversed(followed.told) if alarm.state == "settled"}
        for detector, _, column, onset in said & followed.settled:
            both[detector] += 1
            at, key = int(np.searchsorted(t.row_steps, onset)), (detector, column, onset)
            told[detector].append(first[key] - at)
            sure[detector].append(final[key] - at)
        withdrawn.update(alarm.detector for alarm in followed.last.values() if alarm.state == "withdrawn")
    lines = [
        "| detector | said by both | offline only | live only | withdrawn | rows until told | rows until settled |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for d in (d for d in detectors() if d.stream is not None):
        shown = (_lag(told[d.name]), _lag(sure[d.name]))
        lines.append(
            f"| `{d.name}` | {both[d.name]} | {only_offline[d.name]} | {only_live[d.name]} | {withdrawn[d.name]} "
            f"| {shown[0]} | {shown[1]} |"
        )
    return "\n".join((*lines, "", f"{runs} runs, {rows:,} rows. Medians (nine of ten are below; most)."))


def _runs(seeds: int) -> Iterator[Telemetry]:
    """The scenarios, the sample runs, and made runs in which anything departs: eight and two of these a seed."""
    for name in SCENARIOS:
        say(f"both faces: {name}")
        for seed in range(seeds):
            yield telemetry(loss=scenario(name, seed)[0])
    say("both faces: sample runs and made runs")
    for path in sorted(ROOT.glob("sample_runs/*/run.json")):
        run = open_run(path.parent)
        yield Telemetry(run.series, run.columns, run.row_steps, run.labels)
    yield from (departures(seed) for seed in range(8 * seeds))
    yield from (excursions(seed) for seed in range(2 * seeds))


def live_cost(rounds: int) -> str:
    """What a row of loss, gradient norm and rate costs a live loop."""
    lines = ["| noise of the loss | median, µs | mean | 99 % | most |", "| --- | --- | --- | --- | --- |"]
    for name, shown in (("clean_gaussian", "Gaussian"), ("clean_t4", "Student's t, 4 degrees")):
        took: list[float] = []
        for seed in range(rounds):
            norms = np.exp(0.25 * np.random.default_rng(seed).standard_normal(STEPS))
            watching = live()
            for step, (loss, norm) in enumerate(zip(scenario(name, seed)[0].tolist(), norms.tolist(), strict=True)):
                row = {"loss": loss, "grad_norm": norm, "lr": 3e-4 * min(step / 100, 1)}
                begun = time.perf_counter()
                watching.take(step, row)
                took.append((time.perf_counter() - begun) * 1e6)
        middle, late = np.quantile(took, (0.5, 0.99))
        lines.append(f"| {shown} | **{middle:.1f}** | {np.mean(took):.1f} | {late:.0f} | {max(took):,.0f} |")
    return "\n".join(
        (
            *lines,
            "",
            f"At most 10 µs at the median was asked for. {rounds} runs of {STEPS:,} rows each, on {machine()}.",
        )
    )


def _lag(values: Sequence[int]) -> str:
    if not values:
        return "–"
    middle, late = np.quantile(values, (0.5, 0.9))
    return f"{middle:g} ({late:g}; {max(values)})"


def _events(entry: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Steps that must be found, and steps that may be. A `may` spike is one that its labeller was not sure of."""
    must = [s["start"] for s in entry["spikes"] if s.get("tier", "must") == "must"]
    must += [step for step in (entry["nan_onset"], *entry["resets"]) if step is not None]
    must += [s["step"] for s in entry["grad_norm"]["spikes"]]
    may = [s["start"] for s in entry["spikes"] if s.get("tier") == "may"]
    explosion = entry["grad_norm"]["explosion"]
    return must, [*may, *([explosion["step"]] if explosion else [])]


def _holds(incident: DetectedIncident, step: float, near: float) -> bool:
    """A signal of the incident begins within one log interval of `step`."""
    return any(abs(finding.onset_step - step) <= near for finding in incident.findings)


def _spread(values: Sequence[int]) -> str:
    return f"{statistics.median(values):g} ({min(values)} to {max(values)})" if values else "–"


def main() -> None:
    arguments = options(__doc__ or "", rounds=20).parse_args()
    publish(
        "detectors-scenarios",
        f"{scenarios(arguments.rounds)}\n\nMedians (smallest to largest) over {arguments.rounds} seeds.",
        write=arguments.write,
    )
    publish("detectors-faces", faces(arguments.rounds), write=arguments.write)
    publish("detectors-live-cost", live_cost(min(arguments.rounds, 5)), write=arguments.write)
    if REAL_LOGS.exists():
        publish("detectors-real-logs", real_logs(), write=arguments.write)
    else:
        say("the real logs are not here: their table stays as it is")


if __name__ == "__main__":
    main()
