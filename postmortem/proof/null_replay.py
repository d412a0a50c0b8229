"""Judges the null replay R0: does the run reproduce itself? If it does not, that is a result by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

from postmortem.detectors import DetectedIncident
from postmortem.diagnosis import Experiment, Incident
from postmortem.proof.judge import last_needed_step
from postmortem.run.replayed import Difference, ReplayResult
from postmortem.text import number, plain

FEW_ROWS = 3  # differing rows that a faulty log line may explain, if the state was not logged
NOTHING_TO_CURE = "the replayed rows alone show neither an incident nor a higher loss, so no replay can show a cure"
BAND_NOTE = ": a measured band is used"
_MEASURED = ("loss", "grad_norm")


@dataclass(frozen=True)
class NullReplay:
    """What the null replay shows. reproduces: the incident appears again. detected: a detector finds it in the replayed
    rows alone. exact: every compared row equals the run's, bit for bit. cause: the one that R0 alone confirms, "" for
    none. reason: why the incident does not appear again. agreement: how exactly the rows equal the run's, in words.
    """

    reproduces: bool
    detected: bool
    exact: bool
    cause: str
    reason: str
    agreement: str
    experiment: Experiment


def judge_null_replay(
    incident: Incident, result: ReplayResult, detected: DetectedIncident | None, out: str
) -> NullReplay:
    """Judge a null replay of `incident`, in which a detector found `detected` at its place."""
    agreement = (
        f"bit for bit ({result.compared} rows: {', '.join(result.columns)})"
        if result.exact
        else f"though not bit for bit ({'; '.join(result.arithmetic) or _difference_text(result)})"
    )
    shows_incident = detected is not None and not _only_log_differs_there(incident, result)
    if shows_incident or _rows_are_equal(incident, result):
        experiment = _experiment("persists", f"nothing changed: the incident appears again, {agreement}", result, out)
        return NullReplay(True, shows_incident, result.exact, "", "", agreement, experiment)
    cause, reason = _why_vanished(result)
    experiment = _experiment("vanished", f"nothing changed: {reason}", result, out)
    return NullReplay(False, False, result.exact, cause, reason, agreement, experiment)


def judge_second_null_replay(
    null: NullReplay, second: ReplayResult, out: str, *, equal: bool
) -> tuple[str, str, Experiment]:
    """(cause, reason, second null replay) where the first null replay differs from its run. The machine is to blame
    only if the second equals the first bit for bit (`equal`): a program that does not reproduce itself differs from any
    run."""
    comparison = (
        "equals the first bit for bit" if equal else "differs from the first: the program does not reproduce itself"
    )
    again = replace(null.experiment, text=f"nothing changed, once more: {comparison}", seconds=second.seconds, run=out)
    reason = f"{null.reason if equal else 'it does not appear again'}; a second null replay {comparison}"
    return null.cause if equal else "", reason, again


def _why_vanished(result: ReplayResult) -> tuple[str, str]:
    """(cause, reason in words) of an incident that did not appear again; the cause is "" unless R0 alone confirms
    it."""
    if result.exact:
        return "", (
            "the replay equals the run bit for bit, and no incident is detected in it: "
            "the log shows something that is not in the replayed rows, or they end before it"
        )
    if not result.differences:
        return "", "it does not appear again, and the run recorded nothing that the replay could be compared with"
    if result.arithmetic:
        return (
            "",
            f"it does not appear again, but the replay computes with other arithmetic ({'; '.join(result.arithmetic)})",
        )
    first = {difference.column: difference for difference in result.differences}
    if _only_log_differs(result, first):
        logged = next(iter(first.values()))
        return "logging_artifact", (
            f"only the log shows it: at step {logged.step} it says {logged.column} {_value_text(logged.recorded)}, "
            f"the replay measures {_value_text(logged.replayed)}, and {_restoring(result)}"
        )
    earliest = min(result.differences, key=lambda difference: (difference.step, difference.column != "param_hash"))
    if "batch_hash" in first and first["batch_hash"].step <= earliest.step:
        return "", f"the batches differ from step {first['batch_hash'].step} on: what was replayed is not the run"
    if earliest.step <= result.from_step:
        return "", (
            f"run and replay differ from the first replayed step on (in {earliest.column}): a checkpoint that lacks a "
            "part of the state looks the same as a fault of the machine; test it with postmortem test-resume"
        )
    if "batch_hash" not in result.columns:
        return "", (
            f"run and replay differ from step {earliest.step} on (first in {earliest.column}), and no batch hashes "
            "could be compared: other data would look the same; record batch_hash"
        )
    return "bit_flip", (
        f"transient: run and replay are equal bit for bit until step {earliest.step}, with the same batches and "
        f"program, and differ from there on (first in {earliest.column}); something outside the training changed its "
        "state, such as a flipped bit in memory"
    )


def _rows_are_equal(incident: Incident, result: ReplayResult) -> bool:
    """Whether the rows that show the incident equal the run's bit for bit. Then it appears again, even if no detector
    finds it because the rows end soon after it."""
    columns = {signal.column for signal in incident.signals} & set(result.columns)
    covered = result.from_step <= incident.onset_step and last_needed_step(incident) < result.until
    return result.exact and bool(columns) and covered


def _only_log_differs_there(incident: Incident, result: ReplayResult) -> bool:
    """Whether only the log differs, and does so within the incident: then what a detector finds there is another
    one."""
    first = {difference.column: difference for difference in result.differences}
    within = any(incident.onset_step <= difference.step <= incident.peak_step for difference in result.differences)
    return within and not result.arithmetic and _only_log_differs(result, first)


def _only_log_differs(result: ReplayResult, first: dict[str, Difference]) -> bool:
    """Whether only single measured values differ, while the training itself is equal."""
    if not first or any(column not in _MEASURED for column in first):
        return False
    if "param_hash" in result.columns:
        return True
    return max(result.departed.values()) <= FEW_ROWS


def _restoring(result: ReplayResult) -> str:
    if "param_hash" in result.columns:
        return "the parameters are equal bit for bit at every step"
    return f"the other {result.compared - max(result.departed.values())} rows are equal bit for bit"


def _difference_text(result: ReplayResult) -> str:
    if not result.differences:
        return "nothing could be compared"
    first = result.differences[0]
    return f"{first.column} differs from step {first.step} on"


def _value_text(value: float | str | None) -> str:
    return plain(value, 40) if isinstance(value, str) else number(value)


def _experiment(outcome: str, text: str, result: ReplayResult, out: str) -> Experiment:
    return Experiment(
        role="R0",
        changes=(),
        outcome="vanished" if outcome == "vanished" else "persists",
        text=text,
        from_step=result.from_step,
        steps=result.steps,
        seconds=result.seconds,
        run=out,
    )
