"""How well detectors find incidents: on synthetic faults, on real logs, and on whole runs compared with row by row.

The scenarios are those of tests/detectors, where CI checks their limits; here their figures are shown, over twenty
seeds each. The real logs are in a folder beside the repository; they are read and examined as by `postmortem draft`.
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

from postmortem.assess.detection import detect
from postmortem.detectors import DetectedIncident, Telemetry, detectors, find_incidents, live
from postmortem.sources import open_run
from tests.detectors.helpers import telemetry
from tests.detectors.live_runs import departures, excursions, follow, offline
from tests.detectors.scenarios import SCENARIOS, STEPS, alarm_lag, at_fault, scenario

REAL_LOGS = ROOT.parent / "shared" / "real_logs"
MORE_PLANTED = {"spike_after_nan": 1, "second_spike": 1}  # incidents of a scenario besides its fault
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
            matches = at_fault(incidents, fault)
            errors += [matches[0].onset_step - fault] if matches else []
            false += len(incidents) - min(len(matches), 1) - MORE_PLANTED.get(name, 0)
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
    """One line per log, read as it is: by its format, and of an export of several runs each run that has labels."""
    lines = [
        "| format | log | label | rows | labeled events found | other incidents |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rows, false, kinds_of_clean = 0, 0, Counter[str]()
    for entry in sorted(json.loads((REAL_LOGS / "labels.json").read_text()), key=lambda entry: entry["format"].lower()):
        series = sorted({spike["series"] for spike in entry["spikes"] if "series" in spike}) or [None]
        for name in series:
            run = open_run(REAL_LOGS / entry["file"], run=name)
            incidents = detect(run)
            must, may = _events({**entry, "spikes": [s for s in entry["spikes"] if s.get("series") == name]})
            near = entry["log_every"]
            hits = sum(any(_is_near(incident, step, near) for incident in incidents) for step in must)
            unlabeled = [i for i in incidents if not any(_is_near(i, step, near) for step in (*must, *may))]
            if entry["label"] == "clean":
                rows, false = rows + run.row_steps.size, false + len(incidents)
                kinds_of_clean.update(i.kind for i in incidents)
            kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(i.kind for i in unlabeled).most_common())
            lines.append(
                f"| {entry['format']} | {entry['run_id']}{f', {name}' if name else ''} "
                f"| {entry['label'].replace('_', ' ')} | {run.row_steps.size:,} "
                f"| {f'{hits} of {len(must)}' if must else '–'} | {kinds or '0'} |"
            )
    of_clean = ", ".join(f"{kind} {count}" for kind, count in kinds_of_clean.most_common())
    sums = (
        f"{false} incidents in {rows:,} clean rows{f' ({of_clean})' if of_clean else ''}; at most one per "
        f"{1 / MOST_FALSE:,.0f} was asked for."
    )
    return "\n".join((*lines, "", sums))


def both_ways(seeds: int) -> str:
    """One line per detector that also works row by row: how often both ways agree, and how many rows that one needs."""
    both, only_offline, only_live, withdrawn = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    alarm_lags: defaultdict[str, list[int]] = defaultdict(list)
    settled_lags: defaultdict[str, list[int]] = defaultdict(list)
    runs = rows = 0
    for t in _runs(seeds):
        runs, rows = runs + 1, rows + t.row_steps.size
        whole_run, followed = offline(t), follow(t)
        only_offline.update(detector for detector, _, _, _ in whole_run - followed.settled)
        only_live.update(detector for detector, _, _, _ in followed.settled - whole_run)
        first = {alarm.key: row for row, alarm in reversed(followed.alarms)}
        final = {alarm.key: row for row, alarm in reversed(followed.alarms) if alarm.state == "settled"}
        for detector, _, column, onset in whole_run & followed.settled:
            both[detector] += 1
            onset_row, key = int(np.searchsorted(t.row_steps, onset)), (detector, column, onset)
            alarm_lags[detector].append(first[key] - onset_row)
            settled_lags[detector].append(final[key] - onset_row)
        withdrawn.update(alarm.detector for alarm in followed.last.values() if alarm.state == "withdrawn")
    lines = [
        "| detector | both | offline only | live only | withdrawn | rows until the alarm | rows until settled |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{name}` | {both[name]} | {only_offline[name]} | {only_live[name]} | {withdrawn[name]} "
        f"| {_lag(alarm_lags[name])} | {_lag(settled_lags[name])} |"
        for name in (d.name for d in detectors() if d.stream is not None)
    ]
    return "\n".join((*lines, "", f"{runs} runs, {rows:,} rows. Medians (nine of ten are below; largest)."))


def _runs(seeds: int) -> Iterator[Telemetry]:
    """The scenarios, the sample runs, and ten synthetic runs per seed in which any column departs."""
    for name in SCENARIOS:
        say(f"both ways: {name}")
        for seed in range(seeds):
            yield telemetry(loss=scenario(name, seed)[0])
    say("both ways: sample runs and synthetic runs")
    for path in sorted(ROOT.glob("sample_runs/*/run.json")):
        run = open_run(path.parent)
        yield Telemetry(run.series, run.columns, run.row_steps, run.labels)
    yield from (departures(seed) for seed in range(8 * seeds))
    yield from (excursions(seed) for seed in range(2 * seeds))


def live_cost(rounds: int) -> str:
    """What one row of loss, gradient norm and learning rate costs a live loop."""
    lines = ["| noise of the loss | median, µs | mean | 99 % | largest |", "| --- | --- | --- | --- | --- |"]
    for name, title in (("clean_gaussian", "Gaussian"), ("clean_t4", "Student's t, 4 degrees")):
        micros: list[float] = []
        for seed in range(rounds):
            norms = np.exp(0.25 * np.random.default_rng(seed).standard_normal(STEPS))
            watching = live()
            for step, (loss, norm) in enumerate(zip(scenario(name, seed)[0].tolist(), norms.tolist(), strict=True)):
                row = {"loss": loss, "grad_norm": norm, "lr": 3e-4 * min(step / 100, 1)}
                start = time.perf_counter()
                watching.add_row(step, row)
                micros.append((time.perf_counter() - start) * 1e6)
        middle, late = np.quantile(micros, (0.5, 0.99))
        lines.append(f"| {title} | **{middle:.1f}** | {np.mean(micros):.1f} | {late:.0f} | {max(micros):,.0f} |")
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
    """Steps that must be found, and steps that may be found: a `may` spike is one that its labeler was not sure of."""
    must = [s["peak_step"] for s in entry["spikes"] if s.get("tier", "must") == "must"]
    must += [step for step in (entry["nan_onset"], *entry["resets"]) if step is not None]
    must += [s["step"] for s in entry["grad_norm"]["spikes"]]
    may = [s["peak_step"] for s in entry["spikes"] if s.get("tier") == "may"]
    explosion = entry["grad_norm"]["explosion"]
    return must, [*may, *([explosion["step"]] if explosion else [])]


def _is_near(incident: DetectedIncident, step: float, near: float) -> bool:
    """Whether a signal of the incident begins at most `near` steps from `step`, or the step is within the incident."""
    last = max(incident.peak_step, incident.recovery_step or 0)
    begins = any(abs(finding.onset_step - step) <= near for finding in incident.findings)
    return begins or incident.onset_step <= step <= last


def _spread(values: Sequence[int]) -> str:
    return f"{statistics.median(values):g} ({min(values)} to {max(values)})" if values else "–"


def main() -> None:
    arguments = options(__doc__ or "", rounds=20).parse_args()
    publish(
        "detectors-scenarios",
        f"{scenarios(arguments.rounds)}\n\nMedians (smallest to largest) over {arguments.rounds} seeds.",
        write=arguments.write,
    )
    publish("detectors-faces", both_ways(arguments.rounds), write=arguments.write)
    publish("detectors-live-cost", live_cost(min(arguments.rounds, 5)), write=arguments.write)
    if REAL_LOGS.exists():
        publish("detectors-real-logs", real_logs(), write=arguments.write)
    else:
        say("the real logs are not on this machine: their table is left unchanged")


if __name__ == "__main__":
    main()
