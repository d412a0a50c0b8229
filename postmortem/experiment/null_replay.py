"""R0: does the run reproduce itself? If it does not, that is a finding by itself."""

from __future__ import annotations

from dataclasses import dataclass

from postmortem.detectors import DetectedIncident
from postmortem.diagnosis import Experiment, Incident
from postmortem.experiment.judge import last_of
from postmortem.replay.result import Difference, ReplayResult
from postmortem.text import number, plain

FEW_ROWS = 3  # departed rows that a faulty log line may explain, where the state was not logged
BLIND = "the replayed rows alone show neither an incident nor a higher loss, so that no replay can show a cure"
BAND = ": a measured band is used"
_MEASURED = ("loss", "grad_norm")


@dataclass(frozen=True)
class NullReplay:
    """What the null replay showed. reproduces: the incident is there again. found: a detector sees it in the replayed
    rows alone. cause: the one that R0 alone confirms, "" for none. reason: why it does not reproduce. exact: every
    compared row is the run's, bit for bit."""

    reproduces: bool
    found: bool
    exact: bool
    cause: str
    reason: str
    how: str
    experiment: Experiment


def examine(incident: Incident, result: ReplayResult, found: DetectedIncident | None, out: str) -> NullReplay:
    """Judge a null replay of `incident`, in which `found` was found at its place."""
    how = (
        f"bit for bit ({result.compared} rows: {', '.join(result.columns)})"
        if result.exact
        else f"though not bit for bit ({'; '.join(result.arithmetic) or _parting(result)})"
    )
    there = found is not None and not _logged_only_there(incident, result)
    if there or _the_same_rows(incident, result):
        again = _experiment("persists", f"nothing changed: the incident appears again, {how}", result, out)
        return NullReplay(True, there, result.exact, "", "", how, again)
    cause, reason = _why(result)
    gone = _experiment("vanished", f"nothing changed: {reason}", result, out)
    return NullReplay(False, False, result.exact, cause, reason, how, gone)


def _why(result: ReplayResult) -> tuple[str, str]:
    """(the cause that it shows, "" for none; the reason in words) of an incident that did not appear again."""
    if result.exact:
        return "", (
            "the replay equals the run bit for bit, and no incident is found in it: "
            "the log shows something that the replayed rows do not hold, or they end before it"
        )
    if not result.differences:
        return "", "it does not appear again, and nothing of the replay could be compared with what the run recorded"
    if result.arithmetic:
        return "", f"it does not appear again, but with other arithmetic ({'; '.join(result.arithmetic)})"
    first = {one.column: one for one in result.differences}
    if _log_only(result, first):
        shown = next(iter(first.values()))
        return "logging_artifact", (
            f"only the log had it: at step {shown.step} it says {shown.column} {_value(shown.recorded)}, the replay "
            f"measures {_value(shown.replayed)}, and {_untouched(result)}"
        )
    parting = min(result.differences, key=lambda one: (one.step, one.column != "param_hash"))
    if "batch_hash" in first and first["batch_hash"].step <= parting.step:
        return "", f"the batches differ from step {first['batch_hash'].step} on: it is not the run that was replayed"
    if parting.step <= result.from_step:
        return "", (
            f"run and replay part in the first replayed step (in {parting.column}): a checkpoint that does not hold "
            "all of the state looks the same as a fault of the machine; test it with postmortem test-resume"
        )
    if "batch_hash" not in result.columns:
        return "", (
            f"run and replay part at step {parting.step} (first in {parting.column}), and no hash of the batches could "
            "be compared: other data would look the same; record batch_hash"
        )
    return "bit_flip", (
        f"transient: run and replay are equal bit for bit until step {parting.step}, with the same batches and "
        f"program, and part there for good (first in {parting.column}); something outside of the training changed its "
        "state, such as a flipped bit of memory"
    )


def _the_same_rows(incident: Incident, result: ReplayResult) -> bool:
    """Whether the rows that carry the incident are the run's own bit for bit: it is there, whatever a detector makes of
    a history that ends so soon after it."""
    carried = {signal.column for signal in incident.signals} & set(result.columns)
    whole = result.from_step <= incident.onset_step and last_of(incident) < result.until
    return result.exact and bool(carried) and whole


def _logged_only_there(incident: Incident, result: ReplayResult) -> bool:
    """Whether the log alone differs, and does so within the incident: what was found there then is another one."""
    first = {one.column: one for one in result.differences}
    within = any(incident.onset_step <= one.step <= incident.peak_step for one in result.differences)
    return within and not result.arithmetic and _log_only(result, first)


def _log_only(result: ReplayResult, first: dict[str, Difference]) -> bool:
    """Whether single measured values differ while the training itself is the same."""
    if not first or any(column not in _MEASURED for column in first):
        return False
    if "param_hash" in result.columns:
        return True
    return max(result.departed.values()) <= FEW_ROWS


def _untouched(result: ReplayResult) -> str:
    if "param_hash" in result.columns:
        return "the parameters are equal bit for bit at every step"
    return f"the other {result.compared - max(result.departed.values())} rows are equal bit for bit"


def _parting(result: ReplayResult) -> str:
    if not result.differences:
        return "nothing could be compared"
    one = result.differences[0]
    return f"{one.column} differs from step {one.step} on"


def _value(value: float | str | None) -> str:
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
