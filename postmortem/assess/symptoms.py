"""Fills §1 of the report: each symptom as a number with its step and file, or the reason why it is missing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np

from postmortem.case import Case
from postmortem.detectors import kinds
from postmortem.diagnosis import Symptom
from postmortem.panels import concentrated_token, rare_tokens
from postmortem.series import Series
from postmortem.text import count, number, plain, times

EMA_ROWS = 50  # the template's pre-spike loss is a 50-step exponential moving average
RECOVERY_ROWS = 50  # the template takes the recovery loss 50 steps after the peak
_UNMOVED = "the loss did not move"


def symptoms(case: Case) -> tuple[Symptom, ...]:
    """The symptoms in the order of the template."""
    return tuple(symptom(case) for symptom in _SYMPTOMS)


def _noun(case: Case) -> str:
    return "the spike" if case.loss_moved() and case.incident.kind == "loss_spike" else "the incident"


def loss_before(case: Case) -> float | None:
    """The loss before the incident: a 50-row EMA at the last finite row before the onset."""
    series = case.series("loss")
    if series is None:
        return None
    past = series.window(case.unaffected_from(4 * EMA_ROWS), case.onset)
    value = past.value[np.isfinite(past.value)]
    if not value.size:
        return None
    # Closed form of y[t] = y[t-1] + 2/(n+1) (x[t] - y[t-1]) with y[0] = x[0].
    decay = 1 - 2 / (EMA_ROWS + 1)
    weight = decay ** np.arange(value.size - 1, -1, -1.0)
    weight[1:] *= 1 - decay
    return float(weight @ value)


def _onset(case: Case) -> Symptom:
    interval = case.incident.onset_interval
    label = f"step where {_noun(case)} began"
    if interval is None:
        return Symptom("onset_step", label, case.onset, case.onset, _origin(case, case.incident.findings[0].column))
    text = f"between {interval[0]} and {interval[1]} (no row in between)"
    return Symptom("onset_step", label, case.onset, case.onset, _origin(case, case.incident.findings[0].column), text)


def _before(case: Case) -> Symptom:
    level = loss_before(case)
    label = f"pre-{_noun(case).removeprefix('the ')} loss ({EMA_ROWS}-{'step' if case.row_step == 1 else 'row'} EMA)"
    if level is None:
        return Symptom("pre_spike_loss", label, missing=_no_loss(case, "there is no finite loss before the onset"))
    series = case.series("loss")
    assert series is not None
    last = int(series.step[(series.step < case.onset) & np.isfinite(series.value)][-1])
    return Symptom("pre_spike_loss", label, level, last, _origin(case, "loss"))


def _peak(case: Case) -> Symptom:
    series, label = case.series("loss"), "peak loss"
    if series is None:
        return Symptom("peak_loss", label, missing=_no_loss(case, ""))
    step = case.incident.peak_step
    value = series.at(step)
    if value is None or kinds()[case.incident.kind].measures != "loss":
        near = series.window(case.onset, max(step, case.onset) + 3 * case.row_step)
        if not len(near):
            reason = (
                "the loss is blank: suspected non-finite"
                if case.incident.suspected
                else "the loss was not logged there"
            )
            return Symptom("peak_loss", label, step=step, missing=reason)
        worst = int(np.argmax(np.where(np.isfinite(near.value), near.value, np.inf)))
        step, value = int(near.step[worst]), float(near.value[worst])
    text = "" if _loss_state(case) != _UNMOVED else f"{number(value)} ({_UNMOVED})"
    return Symptom("peak_loss", label, value, step, _origin(case, "loss"), text)


def _recovery(case: Case) -> Symptom:
    series, incident = case.series("loss"), case.incident
    label, key = "recovery loss", "recovery_loss"
    if series is None:
        return Symptom(key, label, missing=_no_loss(case, ""))
    if incident.suspected:
        return Symptom(key, label, "did not recover", missing="", text="did not recover (the loss stays blank)")
    last = float(series.value[-1])
    if incident.recovery_step is None and not math.isfinite(last):
        return Symptom(
            key, label, math.nan, int(series.step[-1]), _origin(case, "loss"), "did not recover (NaN to the last row)"
        )
    if incident.recovery_step is not None:
        value = series.at(incident.recovery_step)
        if value is not None:
            reason = _why_lingering(case)
            text = f"{number(value)} ({reason})" if reason else ""
            return Symptom(key, label, value, incident.recovery_step, _origin(case, "loss"), text)
    later = _after_peak(case, series)
    if not len(later):
        return Symptom(key, label, missing="the log ends at the peak")
    value, step = float(later.value[-1]), int(later.step[-1])
    word = "did not recover" if incident.outcome == "diverged" else "not settled yet"
    return Symptom(key, label, value, step, _origin(case, "loss"), f"{word}: {number(value)} at step {step}")


def _why_lingering(case: Case) -> str:
    """Why an incident lingers although it has a recovery step: it settles, but not where it was; "" for others."""
    incident = case.incident
    if incident.outcome != "lingering" or incident.recovery_step is None:
        return ""
    settled = next((f for f in incident.findings if f.recovery_step == incident.recovery_step), incident.findings[0])
    name = "the loss" if settled.column == "loss" else plain(settled.column, 40)
    level = f" of {number(settled.baseline)}" if math.isfinite(settled.baseline) else ""
    return f"lingering: {name} settles at step {incident.recovery_step}, but not at its old level{level}"


def _after_peak(case: Case, series: Series) -> Series:
    """The rows after the peak, up to 50 steps (rows, where not every step is logged) after it."""
    peak = case.incident.peak_step
    return series.window(peak + 1, peak + RECOVERY_ROWS * case.row_step + 1)


def _later(case: Case) -> Symptom:
    series, key = case.series("loss"), "loss_after_peak"
    label = f"loss {RECOVERY_ROWS} {'steps' if case.row_step == 1 else 'rows'} after the peak"
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
    return Symptom(key, label, value, step, _origin(case, "loss"))


def _grad_norm(case: Case) -> Symptom:
    label, key = f"grad-norm pre-clip at {_noun(case)}", "grad_norm"
    series = case.series("grad_norm")
    near = series.window(*case.span) if series is not None else None
    if near is None or not len(near):
        return Symptom(
            key, label, missing="grad_norm is not logged: log it before clipping; it moves some steps before the loss"
        )
    worst = int(np.argmax(np.where(np.isfinite(near.value), near.value, np.inf)))
    value, usual = float(near.value[worst]), case.level("grad_norm")
    step, size = int(near.step[worst]), "largest" if math.isfinite(value) else "first non-finite value"
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
        return Symptom(key, label, missing=f"{reason}: record worst_token_ids, see Watch.token_losses")
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
    """Why an incident has no loss to tell of: none is logged, or it did not move; "" where it moved, or has no baseline
    by which to judge."""
    if case.series("loss") is None:
        return "no loss is logged"
    return _UNMOVED if case.departure("loss") is not None and not case.loss_departed() else ""


def summary(case: Case) -> str:
    """The incident with its figures in one line."""
    incident, level = case.incident, loss_before(case)
    onset = (
        f"step {case.onset}"
        if incident.onset_interval is None
        else f"steps {incident.onset_interval[0] + 1}–{incident.onset_interval[1]}"
    )
    peak = _peak(case)
    outcome = "rolled back later" if incident.discarded else _why_lingering(case) or incident.outcome
    kind = plain(incident.title, 60)
    if not case.loss_moved():
        finding, loss = incident.findings[0], _loss_state(case)
        end = f"; {loss}" if loss else f", {outcome}"
        if kinds()[finding.kind].measures == "nothing":
            return f"{kind} at {onset}{end}"
        baseline = f"{number(finding.baseline)} → " if math.isfinite(finding.baseline) else ""
        return f"{kind} at {onset}: {plain(finding.column, 40)} {baseline}{number(finding.peak)}{end}"
    if level is None or not isinstance(peak.value, float):
        return f"{kind} at {onset}, {outcome}"
    ratio = f" ({times(peak.value / level)})" if level > 0 and math.isfinite(peak.value / level) else ""
    return f"loss {number(level)} → {number(peak.value)}{ratio}, onset at {onset}, {outcome}"
