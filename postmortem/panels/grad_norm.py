"""Panel 3, the gradient norm before clipping: its size, which group moved first, and whether it led the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from postmortem import stats
from postmortem.case import RESUME_ROWS, Case, Observation
from postmortem.departure import Departure
from postmortem.panels import Panel
from postmortem.panels._measuring import (
    departure_figures,
    departure_text,
    finite_departure,
    first_nonfinite,
    growth_before,
    moved_columns,
    moving_order,
    stands_still,
    unclear,
    unclear_text,
)
from postmortem.panels._settings import clip_changes
from postmortem.stats import MEDIAN_ERROR, noise_sigma
from postmortem.text import count, number, plain, times

RAISED_Z = 3.5  # neither flat nor a spike: above the whole baseline, but not far above its noise
STEP_ROWS, FEWEST_STEP_ROWS = 20, 5  # rows on either side of a step, and the fewest that show a level
FACTORS = sorted({*range(2, 17), *(2**power for power in range(5, 25))})
"""Numbers of micro-batches that a loss may not be divided by, and loss scales that a gradient may not be divided by."""
SAME_RATE = 0.05  # relative change up to which the learning rate is the same on both sides


def _measure(case: Case) -> list[Observation]:
    return [*_norm(case), *clip_changes(case)]


def _norm(case: Case) -> list[Observation]:
    nonfinite = _first_nonfinite(case)
    if nonfinite is not None:
        return [nonfinite]
    return [*_size(case), *_growth(case), *_integer_factor(case)]


def _size(case: Case) -> list[Observation]:
    """What the norm did in the incident."""
    up, down = finite_departure(case, "grad_norm", sign=1), finite_departure(case, "grad_norm", sign=-1)
    if (still := stands_still(case, "grad_norm")) is not None:
        text = f"grad_norm is exactly {number(still[0])} in each of the {count(still[1], 'row')} since the onset"
        return [Observation("grad_norm.stands_still", text, "grad_norm", case.onset, {"value": still[0]})]
    if up is None:
        return []
    if up.moved and not up.ratio < 1.5:
        return _rise(case, up)
    if down and down.moved and down.ratio <= 0.6:
        return [_observed("grad_norm.drop", f"falls: {departure_text(down)}", down)]
    if up.z >= RAISED_Z and up.beyond > 1 and up.ratio >= 1.5:
        return [_observed("grad_norm.raised", f"raised, but hardly more than its noise: {departure_text(up)}", up)]
    if (large := unclear(up, down)) is not None:
        return [_observed("grad_norm.unclear", unclear_text(large), large)]
    return [_observed("grad_norm.flat", f"did not move: {departure_text(up)}", up, moved=False)]


def _observed(slug: str, text: str, d: Departure, *, moved: bool = True) -> Observation:
    return Observation(slug, text, "grad_norm", d.step, departure_figures(d), moved=moved)


def _rise(case: Case, up: Departure) -> list[Observation]:
    observations = [_observed("grad_norm.spike", f"pre-clip {departure_text(up)}", up)]
    clip = case.series("clip_threshold")
    limit = clip.at(up.step) if clip else None
    if limit:
        ratio = up.value / limit
        text = f"grad_norm is {times(ratio)} the clip_threshold of {number(limit)}"
        figures = {"threshold": limit, "ratio": ratio}
        observations.append(Observation("grad_norm.clipped", text, "grad_norm", up.step, figures))
    loss = case.departure("loss", sign=1)
    if loss is not None and loss.moved and up.first_step < loss.first_step:
        lead = loss.first_step - up.first_step
        text = f"grad_norm moves {count(lead, 'step')} before the loss"
        observations.append(Observation("grad_norm.leads", text, "grad_norm", up.first_step, {"lead_steps": lead}))
    series = case.series("grad_norm")
    after = series.window(up.step + case.row_step, up.step + 21 * case.row_step).value if series else np.empty(0)
    if after.size >= 10 and float(stats.median(after)) > 2 * up.baseline:
        median = float(stats.median(after))
        text = f"grad_norm stays up: median {number(median)} over the next {count(after.size, 'row')}"
        observations.append(Observation("grad_norm.stays_up", text, "grad_norm", up.step, {"median_after": median}))
    moved, _ = moved_columns(case, case.family("grad_norm/"), sign=1)
    if moved:
        first = moved[0]
        text = f"{plain(first.column, 60)} moves first of the groups: {moving_order(moved)}"
        observations.append(
            Observation("grad_norm.order", text, first.column, first.first_step, {"first": first.column})
        )
    return observations


def _growth(case: Case) -> Iterator[Observation]:
    """Whether the norm grows in the rows before the onset."""
    if (levels := growth_before(case, "grad_norm")) is not None:
        text = f"grad_norm grows before the onset, from {number(levels[0])} to {number(levels[1])}"
        figures = {"before": levels[0], "at_onset": levels[1]}
        yield Observation("grad_norm.grows", text, "grad_norm", case.onset, figures)


def _integer_factor(case: Case) -> Iterator[Observation]:
    """Whether the norm steps by an exact factor where the run was resumed or a setting changed, at an equal rate.

    A factor is exact where the norm's step is within two standard errors of it, and these are so small that a step of
    any size is so close to one of FACTORS in at most one of five cases; less than full strength where no loss agrees.
    """
    changed = case.timeline.before(case.incident, RESUME_ROWS * case.row_step, "config_change")
    steps = {case.resume, *(entry.step for entry in changed)} - {None}
    for at in sorted(step for step in steps if step is not None):
        rate, norm, loss = (_step(case, name, at) for name in ("lr", "grad_norm", "loss"))
        if rate is None or norm is None or abs(rate[0]) > SAME_RATE:
            continue
        size, error = abs(norm[0]), norm[1]
        near = sorted(FACTORS, key=lambda factor: abs(math.log(factor) - size))[:2]
        if abs(math.log(near[0]) - size) > 2 * error or abs(math.log(near[1] / near[0])) < 20 * error:
            continue
        ratio = math.exp(norm[0])
        agrees = loss is not None and abs(loss[0] - math.copysign(math.log(near[0]), norm[0])) <= max(3 * loss[1], 0.02)
        factor = number(near[0]) if ratio > 1 else f"1/{number(near[0])}"
        text = f"grad_norm is {times(ratio)} as large from step {at} on, at an equal rate: a factor of {factor}" + (
            ", and so is the loss" if agrees else ""
        )
        figures = {"factor": near[0], "ratio": ratio, "loss_ratio": None if loss is None else math.exp(loss[0])}
        yield Observation("grad_norm.integer_factor", text, "grad_norm", at, figures, 1.0 if agrees else 0.5)
        return


def _step(case: Case, name: str, at: int) -> tuple[float, float] | None:
    """(step, its standard error) of the logarithm of a positive column between the rows before and from step `at`."""
    series = case.series(name)
    if series is None:
        return None
    reach = STEP_ROWS * case.row_step
    sides = (series.window(at - reach, at).value, series.window(at, at + reach).value)
    if any(side.size < FEWEST_STEP_ROWS or not (np.isfinite(side) & (side > 0)).all() for side in sides):
        return None
    before, after = (np.log(side) for side in sides)
    variance = sum(noise_sigma(side) ** 2 / side.size for side in (before, after))
    return float(stats.median(after) - stats.median(before)), MEDIAN_ERROR * math.sqrt(variance)


def _first_nonfinite(case: Case) -> Observation | None:
    step = first_nonfinite(case, "grad_norm")
    if step is None:
        return None
    loss = case.series("loss")
    value = loss.at(step) if loss else None
    series = case.series("grad_norm")
    never = series is not None and not np.isfinite(series.value).any()
    text = f"grad_norm is non-finite {f'in every row, from step {step} on,' if never else f'at step {step}'}"
    if value is not None and np.isfinite(value):
        text += f" while the loss of that step is still finite ({number(value)})"
        return Observation("grad_norm.nonfinite_first", text, "grad_norm", step, {"loss": value})
    text += "" if value is None else ", together with the loss"
    return Observation("grad_norm.nonfinite", text, "grad_norm", step)


PANEL = Panel(
    3,
    "grad_norm",
    "Gradient norm (pre-clip)",
    ("grad_norm", "grad_norm_clipped", "clip_threshold", "grad_norm/*"),
    _measure,
    (
        "whether the gradient exploded before the loss (data, overflow) or stayed calm (a logging fault): log "
        "grad_norm before clipping"
    ),
    log_scale=True,
    observes=(
        "grad_norm.drop",
        "grad_norm.raised",
        "grad_norm.flat",
        "grad_norm.stands_still",
        "grad_norm.unclear",
        "grad_norm.spike",
        "grad_norm.clipped",
        "grad_norm.clip_changed",
        "grad_norm.clip_off",
        "grad_norm.leads",
        "grad_norm.stays_up",
        "grad_norm.grows",
        "grad_norm.integer_factor",
        "grad_norm.order",
        "grad_norm.nonfinite_first",
        "grad_norm.nonfinite",
        "grad_norm.part_nonfinite",
    ),
    nonfinite="grad_norm.part_nonfinite",
)
