"""Panel 5, weights and updates: did a parameter move further than an update can move it, and was it provoked?"""

from __future__ import annotations

import numpy as np

from postmortem.case import BASELINE_ROWS, Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import compared, figures
from postmortem.series import Series
from postmortem.text import number, plain, times

LARGEST_UPDATE = (
    10.0  # RMS ÷ lr; Adam's own bound is (1−β1)/√(1−β2) = 3.16 at β2 = 0.999, 10 leaves room for other betas
)
JUMP = 6.0  # a step of the norm this many times the largest one before it is no ordinary update


def _measure(case: Case) -> list[Observation]:
    seen: list[Observation] = []
    names = [n for n in ("param_norm", *case.family("param_norm/")) if n in case.run.columns]
    broken = [b for n in names if (b := _nonfinite(case, n)) is not None]
    if broken:
        column, step = min(broken, key=lambda b: b[1])
        loss = case.series("loss")
        at = loss.at(step) if loss else None
        finite_loss = at is not None and bool(np.isfinite(at))
        gradient = case.series("grad_norm")
        norm = gradient.at(step) if gradient else None
        text = f"{plain(column)} is non-finite after the update of step {step}" + (
            ", whose loss was still finite" if finite_loss else ""
        )
        if finite_loss and norm is not None and np.isfinite(norm):
            text += f" and whose gradient norm was {number(norm)}"
            return [Observation("weights.nonfinite_unprovoked", text, column, step, {"grad_norm": norm})]
        return [Observation("weights.nonfinite_first" if finite_loss else "weights.nonfinite", text, column, step)]
    jumps = sorted(
        filter(None, (_jump(case, n) for n in names)), key=lambda j: (j.step or 0, -float(j.figures["ratio"] or 0))
    )
    if jumps:
        seen.append(jumps[0])
    elif names and case.baseline(names[0]) is not None:
        seen.append(
            Observation(
                "weights.smooth", "parameter norms move no further than before", names[0], case.onset, moved=False
            )
        )
    update = case.departure("update_rms")
    if update is not None:
        slug = (
            "update.large"
            if update.moved and update.ratio >= 1.4
            else "update.small"
            if update.moved and update.ratio <= 0.7
            else "update.flat"
        )
        text = f"update RMS ÷ lr {compared(update)}"
        seen.append(Observation(slug, text, "update_rms", update.step, figures(update), moved=slug != "update.flat"))
    return seen


def _nonfinite(case: Case, name: str) -> tuple[str, int] | None:
    series = case.series(name)
    near = series.window(*case.span) if series else None
    if near is None or np.isfinite(near.value).all():
        return None
    return name, int(near.step[~np.isfinite(near.value)][0])


def _jump(case: Case, name: str) -> Observation | None:
    """A change of a norm from one row to the next beyond anything in the baseline, and whether a gradient explains it.

    Rows need not be evenly spaced: a row that is further from the last than those before it may have moved further.
    """
    series = case.series(name)
    if series is None:
        return None
    near = series.window(case.baseline_start, case.span[1])
    apart = np.diff(near.step)
    moved = Series(name, near.step[1:], np.abs(np.diff(near.value)))
    before, inside = moved.window(0, case.span[0]), moved.window(*case.span)
    if len(before) < BASELINE_ROWS // 4 or not len(inside):
        return None
    first = int(np.searchsorted(moved.step, inside.step[0]))
    per_step = float((before.value / apart[: len(before)]).max())
    usual = np.maximum(float(before.value.max()), per_step * apart[first : first + len(inside)])
    worst = int(np.argmax(inside.value / np.maximum(usual, 1e-300)))
    if not inside.value[worst] > JUMP * max(usual[worst], 1e-6 * float(np.abs(near.value).max())):
        return None
    step = int(inside.step[worst])
    since = int(near.step[first + worst])
    figure = {
        "change": float(inside.value[worst]),
        "largest_before": float(usual[worst]),
        "ratio": float(inside.value[worst] / max(usual[worst], 1e-300)),
    }
    when, unit = (f"in step {step}", "a step") if step == since + 1 else (f"in steps {since + 1} to {step}", "a row")
    text = (
        f"{plain(name)} moves by {number(figure['change'])} {when}, at most {number(figure['largest_before'])} {unit} "
        f"before ({times(figure['ratio'])})"
    )
    if _explained(case, (since + 1, step + 1)):
        return Observation("weights.jump", text, name, step, figure)
    then = "that step" if step == since + 1 else "these steps"
    return Observation(
        "weights.unprovoked_jump", f"{text}; neither the gradient nor lr of {then} explains it", name, step, figure
    )


def _explained(case: Case, here: tuple[int, int]) -> bool:
    """Whether the gradient or lr of a step in `here` was out of the ordinary, or an update grew as much as Adam's can.

    An update that is larger still is no explanation: it is the difference of the same parameters, flip included.
    """
    grown = [d for name in ("grad_norm", "lr") if (d := case.departure(name, here, sign=1)) is not None and d.moved]
    update = case.departure("update_rms", here, sign=1)
    possible = update is not None and update.moved and update.value <= LARGEST_UPDATE
    return possible or any(d.ratio > 1.5 for d in grown)


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
        "weights.jump",
        "weights.unprovoked_jump",
    ),
)
