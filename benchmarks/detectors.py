"""Two tables of detection: twenty seeds of each synthetic fault, and the real logs that lie beside the repository.

The scenarios are those of tests/detectors, which CI holds to their limits; here their figures are shown. The real logs
are read and examined as `postmortem draft` would.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from _measure import ROOT, options, publish, say

sys.path.insert(0, str(ROOT))

from postmortem.detectors import Incident, find_incidents
from postmortem.pipeline import detect
from postmortem.sources import open_run
from tests.detectors.helpers import telemetry
from tests.detectors.scenarios import SCENARIOS, alarm_lag, at_fault, scenario

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


def _events(entry: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Steps that must be found, and steps that may be. A `may` spike is one that its labeller was not sure of."""
    must = [s["start"] for s in entry["spikes"] if s.get("tier", "must") == "must"]
    must += [step for step in (entry["nan_onset"], *entry["resets"]) if step is not None]
    must += [s["step"] for s in entry["grad_norm"]["spikes"]]
    may = [s["start"] for s in entry["spikes"] if s.get("tier") == "may"]
    explosion = entry["grad_norm"]["explosion"]
    return must, [*may, *([explosion["step"]] if explosion else [])]


def _holds(incident: Incident, step: float, near: float) -> bool:
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
    if REAL_LOGS.exists():
        publish("detectors-real-logs", real_logs(), write=arguments.write)
    else:
        say("the real logs are not here: their table stays as it is")


if __name__ == "__main__":
    main()
