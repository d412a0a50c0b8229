"""Fills §1 of the report: each symptom as a number with its step and file, or the reason why it is missing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np

from postmortem.case import Case
from postmortem.detectors import SETTLE_ROWS
from postmortem.diagnosis import Symptom
from postmortem.panels import concentrated_token, furthest, old_level_text, rare_tokens
from postmortem.series import Series
from postmortem.stats import EMA_ROWS
from postmortem.text import count, number, plain, times

RECOVERY_ROWS = 50  # the template takes the recovery loss 50 steps after the peak


def symptoms(case: Case) -> tuple[Symptom, ...]:
    """The symptoms in the order of the template."""
    return tuple(symptom(case) for symptom in _SYMPTOMS)


def _noun(case: Case) -> str:
    return "the spike" if case.loss_moved() and case.incident.kind == "loss_spike" else "the incident"


def loss_before(case: Case) -> float | None:
    """The loss before the incident: a 50-row EMA at the last finite row before the onset, or the median of the last
    rows where they fell too fast for it."""
    level = case.before()
    return None if level is None else level.value


def told_loss(case: Case) -> str:
    """The loss that the symptoms tell of: the evaluation loss where the incident is one of it."""
    return "eval_loss" if case.primary.column == "eval_loss" else "loss"


def _onset(case: Case) -> Symptom:
    interval = case.incident.onset_interval
    label = f"step where {_noun(case)} began"
    if interval is None:
        return Symptom("onset_step", label, case.onset, case.onset, _origin(case, case.incident.findings[0].column))
    text = f"between {interval[0]} and {interval[1]} (no row in between)"
    return Symptom("onset_step", label, case.onset, case.onset, _origin(case, case.incident.findings[0].column), text)


def _before(case: Case) -> Symptom:
    column, label = told_loss(case), f"pre-{_noun(case).removeprefix('the ')} {told_loss(case)}"
    unit, level = "step" if case.row_step == 1 else "row", case.before(column)
    if level is None:
        reason = _no_loss(case, "there is no finite loss before the onset")
        return Symptom("pre_spike_loss", f"{label} ({EMA_ROWS}-{unit} EMA)", missing=reason)
    measure = f"{EMA_ROWS}-{unit} EMA" if level.averaged else f"median of the last {count(level.rows, 'row')}"
    series = case.series(column)
    assert series is not None
    last = int(series.step[(series.step < case.onset) & np.isfinite(series.value)][-1])
    return Symptom("pre_spike_loss", f"{label} ({measure})", level.value, last, _origin(case, column))


def _peak(case: Case) -> Symptom:
    column = told_loss(case)
    label, series = f"peak {column}", case.series(column)
    if series is None:
        return Symptom("peak_loss", label, missing=_no_loss(case, ""))
    if case.incident.suspected and case.primary.column == column:
        return _suspected_peak(case, series, label)
    peak = furthest(case, column)
    if peak is None:
        return Symptom("peak_loss", label, step=case.incident.peak_step, missing=f"the {column} was not logged there")
    step, value = peak
    level, state = case.before(column), _loss_state(case)
    if level is not None and value < level.value and not state:
        label = f"lowest {column}"
    text = f"{number(value)} ({state})" if state else ""
    return Symptom("peak_loss", label, value, step, _origin(case, column), text)


def _suspected_peak(case: Case, series: Series, label: str) -> Symptom:
    """The highest loss before it went blank or exactly 0, which is no value of a loss."""
    step = case.primary.onset_step
    earlier = series.window(case.onset, step)
    highest = int(np.argmax(earlier.value)) if len(earlier) else -1
    before = (
        f"; the highest before is {number(float(earlier.value[highest]))} at step {int(earlier.step[highest])}"
        if len(earlier)
        else ""
    )
    reason = f"the loss is {lost_as(case)} from step {step} on: suspected non-finite{before}"
    return Symptom("peak_loss", label, step=case.incident.peak_step, missing=reason)


def lost_as(case: Case) -> str:
    """How a suspected non-finite loss looks."""
    return "exactly 0" if any("zeros" in f.figures for f in case.incident.findings if f.suspected) else "blank"


def _recovery(case: Case) -> Symptom:
    column, incident = told_loss(case), case.incident
    series, label, key = case.series(column), f"recovery {column}", "recovery_loss"
    if series is None:
        return Symptom(key, label, missing=_no_loss(case, ""))
    if incident.suspected and incident.recovery_step is None:
        return Symptom(key, label, "did not recover", text=f"did not recover (the loss stays {lost_as(case)})")
    origin, last = _origin(case, column), float(series.value[-1])
    if incident.recovery_step is None and not math.isfinite(last):
        text = f"did not recover ({number(last)} in the last row)"
        return Symptom(key, label, last, int(series.step[-1]), origin, text)
    if incident.recovery_step is not None:
        value = series.at(incident.recovery_step)
        if value is not None:
            reason = _why_lingering(case)
            text = f"{number(value)} ({reason})" if reason else ""
            return Symptom(key, label, value, incident.recovery_step, origin, text)
    later = _after_peak(case, series)
    if not len(later):
        return Symptom(key, label, missing="the log ends at the peak")
    value, step = float(later.value[-1]), int(later.step[-1])
    word = "did not recover" if incident.outcome == "diverged" else "not settled yet"
    return Symptom(key, label, value, step, origin, f"{word}: {number(value)} at step {step}")


def _why_lingering(case: Case) -> str:
    """Why an incident lingers although it has a recovery step: it settles, but not where it was; "" for others."""
    incident, settled = case.incident, case.primary
    if incident.outcome != "lingering" or incident.recovery_step is None:
        return ""
    name, level = plain(settled.column, 40), ""
    if settled.column == "loss":
        name, level = "the loss", old_level_text(case, settled.settled)
    elif math.isfinite(settled.baseline):
        level = f" of {number(settled.baseline)}"
    return f"lingering: {name} settles at step {incident.recovery_step}, but not at its old level{level}"


def _after_peak(case: Case, series: Series) -> Series:
    """The rows after the peak, up to 50 steps (rows, where not every step is logged) after it."""
    peak = case.incident.peak_step
    return series.window(peak + 1, peak + RECOVERY_ROWS * case.row_step + 1)


def _later(case: Case) -> Symptom:
    column, key = told_loss(case), "loss_after_peak"
    series = case.series(column)
    label = f"{column} {RECOVERY_ROWS} {'steps' if case.row_step == 1 else 'rows'} after the peak"
    if series is None:
        return Symptom(key, label, missing=_no_loss(case, ""))
    last = case.incident.peak_step + RECOVERY_ROWS * case.row_step
    if not series.step.size or int(series.step[-1]) < last:
        rows = (int(series.step[-1]) - case.incident.peak_step) // case.row_step if series.step.size else 0
        unit = "step" if case.row_step == 1 else "row"
        reason = f"the log of the loss ends {count(rows, unit)} after it" if rows > 0 else "the log ends at the peak"
        return Symptom(key, label, missing=reason)
    later = _after_peak(case, series)
    if not len(later):
        return Symptom(key, label, step=last, missing="the loss was not logged there")
    value, step = float(later.value[-1]), int(later.step[-1])
    return Symptom(key, label, value, step, _origin(case, column))


def _grad_norm(case: Case) -> Symptom:
    label, key = f"grad-norm pre-clip at {_noun(case)}", "grad_norm"
    series = case.series("grad_norm")
    near = series.window(*case.span) if series is not None else None
    if series is None or near is None or not len(near):
        return Symptom(
            key, label, missing="grad_norm is not logged: log it before clipping; it moves some steps before the loss"
        )
    worst = int(np.argmax(np.where(np.isfinite(near.value), near.value, np.inf)))
    step, value, usual = int(near.step[worst]), float(near.value[worst]), case.level("grad_norm")
    of_itself = furthest(case, "grad_norm") if case.primary.column == "grad_norm" else None
    step, value = (step, value) if of_itself is None else of_itself
    size = "largest" if math.isfinite(value) else "first non-finite value"
    notes = [] if step == case.onset else [f"{size} around {_noun(case)}"]
    notes += [] if usual is None else [f"rolling baseline {usual:.3g}"]
    text = number(value) + (f" ({'; '.join(notes)})" if notes else "")
    return Symptom(key, label, value, step, _origin(case, "grad_norm"), text)


def _lr(case: Case) -> Symptom:
    series = case.series("lr")
    value = series.at(case.onset) if series is not None else None
    if series is None or value is None:
        reason = "lr is not logged: log it at each step" if series is None else "lr has no value at the onset"
        return Symptom("lr", f"LR at {_noun(case)}", missing=reason)
    return Symptom("lr", f"LR at {_noun(case)}", value, case.onset, _origin(case, "lr"), f"{value:.3g}")


def _dtype(case: Case) -> Symptom:
    dtype = case.run.manifest.dtype
    missing = "" if dtype else "run.json has no dtype: write it there"
    return Symptom(
        "dtype",
        "dtype regime",
        plain(dtype, 20) if dtype else None,
        origin="run.json, key dtype" if dtype else "",
        missing=missing,
    )


def _batch(case: Case) -> Symptom:
    series = case.series("batch_index")
    value = series.at(case.onset) if series is not None else None
    if value is None or not math.isfinite(value):
        return Symptom(
            "batch_index",
            f"batch index in the step where {_noun(case)} began",
            missing="batch_index is not logged: log it with a hash of the batch",
        )
    labels = case.labels("source")
    source = labels.at(case.onset) if labels is not None else None
    text = f"{int(value)}" + (f", from {plain(source, 40)}" if source else "")
    return Symptom(
        "batch_index",
        f"batch index in the step where {_noun(case)} began",
        int(value),
        case.onset,
        _origin(case, "batch_index"),
        text,
    )


def _tokens(case: Case) -> Symptom:
    label, key = "corpus tokens in that batch that look unusual", "unusual_tokens"
    ids, dense = case.numbers_at("worst_token_ids", case.onset), concentrated_token(case)
    rare = rare_tokens(case)
    raised = rare is not None and rare.slug == "data.rare_tokens"
    notes = [f"{dense.held} of the {dense.known} samples with {case.piece(dense.token)} in the log"] if dense else []
    if raised and rare:
        value, usual = number(rare.figure("value")), number(rare.figure("baseline"))
        notes.append(f"{value} rare tokens instead of the usual {usual}")
    if ids is None and dense is not None:
        piece = case.piece(dense.token).strip("“”")
        return Symptom(key, label, piece, case.onset, _origin(case, "token_ids"), "; ".join([piece, *notes]))
    if ids is None:
        labels = case.labels("token_ids")
        stored = labels is not None and labels.at(case.onset) is not None
        reason = (
            "its token ids are in batches/, but the losses by token are not" if stored else "token ids are not logged"
        )
        return Symptom(key, label, missing=f"{reason}: record worst_token_ids, see Watch.logits")
    names = Counter(case.piece(int(i)).strip("“”") for i in ids)
    listed = ", ".join(f"{name} ×{n}" if n > 1 else name for name, n in names.most_common(6))
    text = "; ".join([f"highest loss: {listed}", *notes]) if notes else f"none unusual (highest loss: {listed})"
    value = listed if notes else "none flagged"
    return Symptom(key, label, value, case.onset, _origin(case, "worst_token_ids"), text)


def _origin(case: Case, column: str) -> str:
    try:
        return case.run.origin(column)
    except KeyError:
        return ""


def _no_loss(case: Case, otherwise: str) -> str:
    return otherwise if case.series("loss") is not None else "no loss is logged: log it at each step"


_SYMPTOMS: tuple[Callable[[Case], Symptom], ...] = (
    _onset,
    _before,
    _peak,
    _recovery,
    _later,
    _grad_norm,
    _lr,
    _dtype,
    _batch,
    _tokens,
)


def _loss_state(case: Case) -> str:
    """What to say of the train loss of an incident that is one of another column: it is not logged, or did not move;
    "" where it moved, or has no baseline by which to judge."""
    if case.series("loss") is None:
        return "no loss is logged"
    departure = case.departure("loss")
    if departure is None or case.loss_departed():
        return ""
    return "the loss did not move" if departure.flat else "the loss varies too much before to say whether it moved"


def summary(case: Case) -> str:
    """The incident with its figures in one line."""
    incident, main = case.incident, case.primary
    onset = (
        f"step {case.onset}"
        if incident.onset_interval is None
        else f"steps {incident.onset_interval[0] + 1}–{incident.onset_interval[1]}"
    )
    kind = plain(incident.title, 60)
    later = ", set aside by a new start" if case.begun_anew else ", rolled back later"
    outcome = later if incident.discarded else f", {_why_lingering(case) or incident.outcome}"
    if incident.suspected and main.column == "loss":
        level, rows = case.before(), rows_lost(case)
        before = f", {number(level.value)} before" if level is not None else ""
        end = "to the last row" if incident.recovery_step is None else f"until step {incident.recovery_step}"
        is_long = incident.outcome == "unresolved" and not incident.discarded and rows >= SETTLE_ROWS
        stretch = f"{lost_as(case)} from step {main.onset_step} {end} ({count(rows, 'row')})"
        return f"{kind} at {onset}: {stretch}{before}{'' if is_long else outcome}"
    if main.column == "loss" and main.role == "cause":
        return f"{kind} at {onset}: {_change(case)}{outcome}"
    if main.column == "loss":
        return f"{_loss_change(case) or kind}, onset at {onset}{outcome}"
    if main.settled is not None and main.settled == main.peak and main.recovery_step is None:
        return f"{kind} at {onset}: {_columns_of(case)} to the last row"
    measured = main.declared is None or main.declared.measures != "nothing"
    figures = f": {_change(case) if measured else _columns_of(case)}"
    loss = _loss_state(case) or (_loss_change(case) if told_loss(case) == "loss" else "")
    return f"{kind} at {onset}{figures}{outcome}{'; ' if loss else ''}{loss}"


def _columns_of(case: Case) -> str:
    """The columns of an incident that has no figures worth comparing, each with the value that it keeps."""
    columns = {f.column: f for f in case.incident.findings if f.kind == case.incident.kind}
    return " and ".join(
        plain(name, 40) + (f" is {number(f.peak)}" if f.settled == f.peak else "") for name, f in columns.items()
    )


def rows_lost(case: Case) -> int:
    """In how many rows a suspected non-finite loss is blank or exactly 0."""
    first, back, series = case.primary.onset_step, case.incident.recovery_step, case.series("loss")
    logged = case.run.row_steps if series is None or lost_as(case) == "blank" else series.step
    return int(((logged >= first) & (logged < (back or math.inf))).sum())


def _loss_change(case: Case) -> str:
    """`loss 2.31 → 5.84 (2.5×)`; "" where one of the two is not known."""
    level, peak = case.before(), furthest(case)
    return "" if level is None or peak is None else f"loss {_arrow(level.value, peak[1], level.ratio(peak[1]))}"


def _change(case: Case) -> str:
    """The same of the column that the incident is one of, as its detector or the symptoms measured it."""
    main = case.primary
    name, level, peak = plain(main.column, 40), case.before(main.column), furthest(case, main.column)
    value = main.peak if peak is None else peak[1]
    if told_loss(case) == main.column and level is not None:
        return f"{name} {_arrow(level.value, value, level.ratio(value))}"
    return f"{name} {_arrow(main.baseline, value, math.nan)}"


def _arrow(before: float, after: float, ratio: float) -> str:
    start = f"{number(before)} → " if math.isfinite(before) else ""
    return f"{start}{number(after)}{f' ({times(ratio)})' if math.isfinite(ratio) else ''}"
