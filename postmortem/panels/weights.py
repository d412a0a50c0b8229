"""Panel 5, weights and updates: whether a parameter moved further than an update can move it."""

from __future__ import annotations

import numpy as np

from postmortem.case import BASELINE_ROWS, Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import (
    column_names,
    departure_figures,
    departure_text,
    finite_departure,
    first_nonfinite,
    unclear_text,
)
from postmortem.series import Series
from postmortem.text import count, number, plain, times

# RMS ÷ lr; Adam's own bound is (1−β1)/√(1−β2) = 3.16 at β2 = 0.999, and 10 leaves room for other betas.
LARGEST_UPDATE = 10.0
LEAD_ROWS = 20  # before the onset in which an update is searched that led to a non-finite value
LARGER = 2.0  # such an update is this many times the largest of the rows before
JUMP = 6.0  # an ordinary update never changes the norm by this many times the largest change before


def _measure(case: Case) -> list[Observation]:
    names = [n for n in ("param_norm", *case.family("param_norm/")) if n in case.run.columns]
    broken = [(n, step) for n in names if (step := first_nonfinite(case, n)) is not None]
    if broken:
        return [_broken(case, *min(broken, key=lambda b: b[1])), *_before_nonfinite(case)]
    observations: list[Observation] = []
    jumps = sorted(
        filter(None, (_jump(case, n) for n in names)), key=lambda j: (j.step or 0, -float(j.figures["ratio"] or 0))
    )
    if jumps:
        observations.append(jumps[0])
    elif names and case.baseline(names[0]) is not None:
        text = f"no norm changes more than before: {column_names(names)}"
        observations.append(Observation("weights.smooth", text, names[0], case.onset, moved=False))
    return [*observations, *(_before_nonfinite(case) or _update(case))]


def _broken(case: Case, column: str, step: int) -> Observation:
    """That a parameter norm is not finite from `step` on, and whether loss and gradient of that step still were."""
    loss = case.series("loss")
    value = loss.at(step) if loss else None
    finite_loss = value is not None and bool(np.isfinite(value))
    gradient = case.series("grad_norm")
    norm = gradient.at(step) if gradient else None
    text = f"{plain(column)} is non-finite after the update of step {step}" + (
        ", whose loss was still finite" if finite_loss else ""
    )
    if finite_loss and norm is not None and np.isfinite(norm):
        text += f" and whose gradient norm was {number(norm)}"
        return Observation("weights.nonfinite_unprovoked", text, column, step, {"grad_norm": norm})
    return Observation("weights.nonfinite_first" if finite_loss else "weights.nonfinite", text, column, step)


def _update(case: Case) -> list[Observation]:
    update = finite_departure(case, "update_rms")
    if update is None:
        return []
    large, small = update.moved and update.ratio >= 1.4, update.moved and update.ratio <= 0.7
    if not update.moved and not update.flat:
        text, figures = unclear_text(update), departure_figures(update)
        return [Observation("update.unclear", text, "update_rms", update.step, figures)]
    slug = "update.large" if large else "update.small" if small else "update.flat"
    text, figures = departure_text(update), departure_figures(update)
    return [Observation(slug, text, "update_rms", update.step, figures, moved=large or small)]


def _before_nonfinite(case: Case) -> list[Observation]:
    """The first update before a non-finite value that is larger than all before: where the damage was done.

    The update may come some rows before the first NaN, and so before the onset.
    """
    series = case.series("update_rms")
    steps = [f.onset_step for f in case.incident.findings if f.role == "fatal" and not f.suspected]
    if series is None or not steps:
        return []
    since = case.onset - LEAD_ROWS * case.row_step
    usual, rows = series.window(case.baseline_start, since).value, series.window(since, min(steps) + 1)
    usual = usual[np.isfinite(usual)]
    large = rows.value > LARGER * usual.max() if usual.size >= BASELINE_ROWS // 4 else np.zeros(len(rows), bool)
    if not large.any():
        return []
    step, value = int(rows.step[large][0]), float(rows.value[large][0])
    level = float(np.median(usual))
    lead = min(steps) - step
    before = f"{count(lead, 'step')} before the first non-finite value" if lead else "where values become non-finite"
    jump = f"update_rms jumps to {number(value)} at step {step}, baseline {number(level)} ({times(value / level)})"
    text = f"{jump}, {before}"
    figures = {"value": value, "baseline": level, "lead_steps": lead}
    return [Observation("update.before_nonfinite", text, "update_rms", step, figures)]


def _jump(case: Case, name: str) -> Observation | None:
    """A change of a norm from one row to the next that exceeds every change in the baseline, and whether a gradient
    explains it.

    Rows need not be evenly spaced: a row after a longer gap may have moved further.
    """
    series = case.series(name)
    if series is None:
        return None
    near = series.window(case.baseline_start, case.span[1])
    steps_between = np.diff(near.step)
    change = Series(name, near.step[1:], np.abs(np.diff(near.value)))
    before, inside = change.window(0, case.span[0]), change.window(*case.span)
    if len(before) < BASELINE_ROWS // 4 or not len(inside):
        return None
    first = int(np.searchsorted(change.step, inside.step[0]))
    per_step = float((before.value / steps_between[: len(before)]).max())
    usual = np.maximum(float(before.value.max()), per_step * steps_between[first : first + len(inside)])
    worst = int(np.argmax(inside.value / np.maximum(usual, 1e-300)))
    if not inside.value[worst] > JUMP * max(usual[worst], 1e-6 * float(np.abs(near.value).max())):
        return None
    step = int(inside.step[worst])
    last_before = int(near.step[first + worst])
    figures = {
        "change": float(inside.value[worst]),
        "largest_before": float(usual[worst]),
        "ratio": float(inside.value[worst] / max(usual[worst], 1e-300)),
    }
    one_step = step == last_before + 1
    steps, unit = (f"step {step}", "per step") if one_step else (f"steps {last_before + 1} to {step}", "per row")
    text = (
        f"{plain(name)} moves by {number(figures['change'])} in {steps}, but at most "
        f"{number(figures['largest_before'])} {unit} before ({times(figures['ratio'])})"
    )
    window = (last_before + 1, step + 1)
    if _explained(case, window):
        return Observation("weights.jump", text, name, step, figures)
    those = "that step" if one_step else "these steps"
    if case.departure("grad_norm", window) is None:
        return Observation("weights.jump_alone", f"{text}; no gradient of {those} is logged", name, step, figures)
    unmoved = "neither grad_norm nor lr" if case.departure("lr", window) is not None else "grad_norm"
    text += f"; {unmoved} of {those} {'explains' if ' ' in unmoved else 'does not explain'} it"
    return Observation("weights.unprovoked_jump", text, name, step, figures)


def _explained(case: Case, window: tuple[int, int]) -> bool:
    """Whether the gradient or lr of a step in `window` was unusual, or an update grew no more than Adam's can.

    A larger update is no explanation: it is the difference of the same parameters, the bit flip included.
    """
    grown = [d for name in ("grad_norm", "lr") if (d := case.departure(name, window, sign=1)) is not None and d.moved]
    update = case.departure("update_rms", window, sign=1)
    possible = update is not None and update.moved and update.value <= LARGEST_UPDATE
    return possible or any(not d.ratio <= 1.5 for d in grown)  # NaN: a gradient that is not finite explains any jump


PANEL = Panel(
    5,
    "weights",
    "Weights and updates",
    ("param_norm", "update_rms", "param_norm/*"),
    _measure,
    (
        "whether a parameter moved further than its update (a bit flip), and whether updates grew: log "
        "param_norm and update_rms"
    ),
    log_scale=True,
    observes=(
        "weights.nonfinite_unprovoked",
        "weights.nonfinite_first",
        "weights.nonfinite",
        "weights.smooth",
        "update.large",
        "update.small",
        "update.flat",
        "update.unclear",
        "weights.jump",
        "weights.unprovoked_jump",
        "weights.jump_alone",
        "update.before_nonfinite",
        "update.nonfinite",
    ),
    nonfinite="update.nonfinite",
)
