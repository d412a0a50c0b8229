"""Says in a phrase what an event of the journal says, whatever its keys contain: they come from strangers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, cast

from postmortem.change import format_window
from postmortem.run.event_meaning import as_number, not_restored, parse_windows, texts
from postmortem.run.journal import REWIND_TARGETS, Event, step_number
from postmortem.run.naming import name_list
from postmortem.text import number, plain

_SHORT, _LONG = 40, 160  # characters of a value, and of a reason
_MOST_NAMES = 4


def event_text(event: Event) -> str:
    """A phrase such as `rolled back from step 361 to step 300, skipping batches [312, 512): loss_spike_sustained`."""
    phrase = _PHRASES.get(event.event)
    return _unknown(event) if phrase is None else phrase(_with_target(event))


def dated(event: Event, step: int | None) -> str:
    """`event_text` after the step at which it took effect, if that is known."""
    return event_text(event) if step is None else f"step {step}: {event_text(event)}"


def rewind_text(rollback: Event | None, resume: Event | None) -> str:
    """A rollback and the resume that carried it out as one phrase; either may be absent."""
    if rollback is None or resume is None:
        return "" if rollback is resume else event_text(cast(Event, rollback or resume))
    target = step_number(_with_target(rollback).get("to_step"))
    if target is None or step_number(_with_target(resume).get("from_step")) not in (None, target):
        return f"{event_text(rollback)}; {event_text(resume)}"
    begin = step_number(rollback.keys.get("from_step"))
    came = "" if begin is None else f" from step {begin}"
    return f"resumed from step {target}{_details(resume.keys)} after a rollback{came}{_rollback_rest(rollback.keys)}"


def _with_target(event: Event) -> Mapping[str, Any]:
    """The keys of an event; a rollback or resume that names no step to which it goes back names its own."""
    key = REWIND_TARGETS.get(event.event, "")
    return {**event.keys, key: event.step} if key and key not in event.keys else event.keys


def _value(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    return "none" if value is None else plain(value, _SHORT)


def _reason(keys: Mapping[str, Any]) -> str:
    reason = keys.get("reason")
    return f": {plain(reason, _LONG)}" if isinstance(reason, str) and reason else ""


def _listed(value: object) -> str:
    names = texts(value)
    return name_list(names, _MOST_NAMES) if names else ""


def _change(keys: Mapping[str, Any]) -> str:
    """` from OLD to NEW`, as far as the keys are there."""
    old = f" from {_value(keys['old'])}" if "old" in keys else ""
    return old + (f" to {_value(keys['new'])}" if "new" in keys else "")


def _details(keys: Mapping[str, Any]) -> str:
    """` (its checkpoint, without the pieces that it did not restore, settings that it changed)` of a resume."""
    path = keys.get("checkpoint")
    missing = not_restored(Event("resume", None, None, keys, 0))
    parts = [plain(path, 100)] if isinstance(path, str) else []
    parts += [f"without {name_list(missing)}"] if missing else []
    changed = keys.get("changed")
    pairs = cast("Mapping[str, object]", changed).items() if isinstance(changed, Mapping) else ()
    parts += [f"{plain(key, 60)}{_pair(pair)}" for key, pair in islice(pairs, _MOST_NAMES)]
    sizes = [step_number(keys.get(key)) for key in ("saved_world_size", "world_size")]
    parts += [f"{sizes[1]} instead of {sizes[0]} ranks"] if None not in sizes and sizes[0] != sizes[1] else []
    return f" ({', '.join(parts)})" if parts else ""


def _pair(value: object) -> str:
    """` is NEW instead of OLD` of a setting [old, new]."""
    if not isinstance(value, (list, tuple)) or len(cast("Sequence[object]", value)) != 2:
        return " changed"
    old, new = cast("Sequence[object]", value)
    return f" is {_value(new)} instead of {_value(old)}"


def _rollback_rest(keys: Mapping[str, Any]) -> str:
    """The skip windows, the other changes and the reason of a rollback."""
    windows = parse_windows(keys.get("skip"))
    shown = ", ".join(map(format_window, windows[:_MOST_NAMES])) + (", …" if len(windows) > _MOST_NAMES else "")
    skip = f", skipping batches {shown}" if windows else ""
    changes = [change for change in texts(keys.get("changes")) or () if not (windows and change.startswith("skip"))]
    return skip + (f", with {name_list(changes, _MOST_NAMES)}" if changes else "") + _reason(keys)


def _rollback(keys: Mapping[str, Any]) -> str:
    begin, target = step_number(keys.get("from_step")), step_number(keys.get("to_step"))
    path = keys.get("checkpoint")
    text = "rolled back" + ("" if begin is None else f" from step {begin}")
    text += "" if target is None else f" to step {target}"
    return text + (f" ({plain(path, 100)})" if isinstance(path, str) else "") + _rollback_rest(keys)


def _resume(keys: Mapping[str, Any]) -> str:
    step = step_number(keys.get("from_step"))
    return ("resumed" if step is None else f"resumed from step {step}") + _details(keys)


def _incident(keys: Mapping[str, Any]) -> str:
    if keys.get("kind") == "oom":
        return _oom(keys)
    value, columns = as_number(keys.get("value")), _listed(keys.get("columns"))
    figure = "" if value is None else f" ({number(value)})"
    kind = f" “{plain(keys['kind'], _SHORT)}”" if isinstance(keys.get("kind"), str) else ""
    return f"the training noticed{kind or ' an incident'}{figure}" + (f" in {columns}" if columns else "")


def _config_change(keys: Mapping[str, Any]) -> str:
    return f"config {plain(keys.get('key', '?'), 60)} changed{_change(keys)}{_reason(keys)}"


def _environment_change(keys: Mapping[str, Any]) -> str:
    changed = keys.get("changed")
    pairs = dict(islice(cast("Mapping[str, object]", changed).items(), 6)) if isinstance(changed, Mapping) else {}
    listed = ", ".join(f"{plain(key, 60)}{_pair(pair)}" for key, pair in pairs.items())
    return "the environment changed" + (f": {listed}" if listed else "")


def _lr_reduction(keys: Mapping[str, Any]) -> str:
    factor, ramp = as_number(keys.get("factor")), step_number(keys.get("ramp_steps"))
    text = f"learning rate reduced{_change(keys)}"
    text += f" (×{number(factor)})" if factor is not None else ""
    return text + (f", back up within {ramp} steps" if ramp is not None else "") + _reason(keys)


def _oom(keys: Mapping[str, Any]) -> str:
    size = f", micro-batch size{_change(keys)}" if "new" in keys else ""
    retried = keys.get("retried")
    again = (", retried" if retried else ", not retried") if isinstance(retried, bool) else ""
    return f"out of memory{size}{again}{_reason(keys)}"


def _kill(keys: Mapping[str, Any]) -> str:
    signal = f" by {_value(keys['signal'])}" if "signal" in keys else ""
    return f"the training was killed{signal}{_reason(keys)}"


def _run_end(keys: Mapping[str, Any]) -> str:
    status, error = keys.get("status"), keys.get("error")
    text = f"the training ended: {plain(status, _SHORT)}" if isinstance(status, str) else "the training ended"
    return text + (f" ({plain(error, _LONG)})" if isinstance(error, str) else "")


def _with_path(sentence: str) -> Callable[[Mapping[str, Any]], str]:
    def text(keys: Mapping[str, Any]) -> str:
        path = keys.get("path")
        return sentence.format(f" {plain(path, 100)}" if isinstance(path, str) else "") + _reason(keys)

    return text


def _best_k_refused(keys: Mapping[str, Any]) -> str:
    metric = f" of {plain(keys['metric'], _SHORT)}" if isinstance(keys.get("metric"), str) else ""
    value = f" {_value(keys['value'])}" if "value" in keys else ""
    return f"the value{value}{metric} ranked no checkpoint"


def _recording_degraded(keys: Mapping[str, Any]) -> str:
    rows, seconds = step_number(keys.get("lost_rows")), as_number(keys.get("seconds"))
    while_ = "" if seconds is None else f" for {number(seconds)} s"
    return f"rows could not be written{while_}{'' if rows is None else f', {rows} were lost'}{_reason(keys)}"


def _nonfinite_parameters(keys: Mapping[str, Any]) -> str:
    return f"{_listed(keys.get('names')) or 'parameters'} hold NaN or Inf"


def _token_ids_lost(keys: Mapping[str, Any]) -> str:
    batches = step_number(keys.get("batches"))
    return f"token ids of {'some' if batches is None else batches} batches could not be kept{_reason(keys)}"


def _clock_went_back(keys: Mapping[str, Any]) -> str:
    seconds = as_number(keys.get("seconds"))
    return "the clock was set back" + ("" if seconds is None else f" by {number(seconds)} s")


def _attempt(sentence: str) -> Callable[[Mapping[str, Any]], str]:
    def text(keys: Mapping[str, Any]) -> str:
        attempt = step_number(keys.get("attempt"))
        return sentence.format("" if attempt is None else f" {attempt}")

    return text


def _unknown(event: Event) -> str:
    keys = [f"{plain(key, 30)} {_value(value)}" for key, value in islice(event.keys.items(), _MOST_NAMES)]
    return f"event “{plain(event.event, _SHORT)}”" + (f" ({', '.join(keys)})" if keys else "")


_PHRASES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "run_start": _attempt("attempt{} began from scratch"),
    "reopen": _attempt("attempt{} began"),
    "resume": _resume,
    "rollback": _rollback,
    "checkpoint": _with_path("checkpoint{} saved"),
    "checkpoint_deleted": _with_path("checkpoint{} deleted"),
    "checkpoint_failed": _with_path("the save of checkpoint{} failed"),
    "checkpoint_refused": _with_path("checkpoint{} was refused"),
    "retention_failed": _with_path("old checkpoint{} could not be removed"),
    "best_k_refused": _best_k_refused,
    "incident": _incident,
    "config_change": _config_change,
    "data_change": lambda keys: f"the data changed{_change(keys)}{_reason(keys)}",
    "lr_reduction": _lr_reduction,
    "environment_change": _environment_change,
    "oom": _oom,
    "kill": _kill,
    "recording_degraded": _recording_degraded,
    "nonfinite_parameters": _nonfinite_parameters,
    "token_ids_lost": _token_ids_lost,
    "clock_went_back": _clock_went_back,
    "run_end": _run_end,
}
