"""A loss that falls to a new level at once and stays there: labels that leak, other data, another reduction or model.

Learning lowers a loss along a curve. A step is more than the slope on either side explains, is done within a few rows,
ends below every level that the loss had before (else it came back from somewhere), and stays. A rate that is lowered at
once lowers the loss, too; and so does the border of an epoch, which `epoch_steps` tells of.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._epochs import at_epoch_starts, epoch_starts
from postmortem.detectors._level_step import LOCAL_ROWS, SIDE_ROWS, LevelSteps, level_steps
from postmortem.detectors._model import LINGERING, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._screen import ScreenedColumn, screened_column
from postmortem.detectors._steps import runs
from postmortem.incident import Kind
from postmortem.stats import median

SIGMAS, FLOOR = 8.0, 0.04
"""What a step must exceed: sigmas of the steps that this loss has anyway, and 4 % (on the linear scale of the column's
median size). A run has thousands of rows at which one could be, and levels wander further than Gaussian noise does."""

KEPT_SHARE, FOLLOWED_ROWS = 0.5, 200
"""The loss stays where at least half of the step is left in the last of up to 200 rows; fewer than two blocks (40 rows)
cannot tell it from a batch that is repeated for a while."""

STAIR_SHARE = 0.5
"""The share of a step that another one has that belongs to the same stairs."""

RATE_SHARE = 0.05
"""A rate that is lower by 5 % from one row to the next was lowered at once: no smooth schedule falls so fast, but in
its last rows, where hardly anything is learned."""

KIND = Kind("level_drop", "drop of the loss to a new level", measures="loss")


def _detect(t: Telemetry) -> Iterator[Finding]:
    s = screened_column(t.series("loss"), smoothed="loss" in t.smoothed)
    steps = None if s is None or s.near_zero or s.smoothed else level_steps(s)
    if s is None or steps is None:
        return
    starts = epoch_starts(t.epoch, t.series("batch_index"), t.restarts)
    drops = list(_drops(steps, FLOOR * s.unit))
    if any(_is_a_stair(steps, row) for row, _ in drops):
        return
    for row, sigma in drops:
        at = _first_low_row(s, steps, row)
        zero = not steps.after[row] > 0 and not s.log  # some trainers write NaN so: `suspected_non_finite`
        if not (zero or at_epoch_starts(s.step, at, starts) or _rate_fell(t, s.step, at)):
            yield _finding(s, steps, row, at, sigma)


def _drops(steps: LevelSteps, floor: float) -> Iterator[tuple[int, float]]:
    """The rows of `steps.y` at which the level drops for good, by `floor` or more, each with the sigma of steps."""
    fall = np.nan_to_num(steps.fall)
    lowest = np.minimum.accumulate(np.where(np.isnan(steps.after), np.inf, steps.after))
    for rows in runs(np.flatnonzero(fall >= max(SIGMAS * steps.least_sigma, floor)), steps.side):
        row, at_once = steps.steepest(rows)
        if not at_once or fall[row] < SIGMAS * (sigma := steps.sigma([row])):
            continue
        kept = KEPT_SHARE * float(fall[row])
        rest = steps.y[row : row + FOLLOWED_ROWS]
        new = steps.after[row] <= lowest[row - steps.side] - kept
        just_before = float(median(steps.y[row - LOCAL_ROWS : row]))
        lifted = just_before - steps.before[row] > kept  # it fell from where it had just risen to
        stays = float(median(rest[-steps.side :])) <= steps.before[row] - kept
        if new and stays and not lifted and rest.size >= 2 * steps.side:
            yield row, sigma


def _is_a_stair(steps: LevelSteps, row: int) -> bool:
    """Whether the loss falls at once elsewhere, too, and half as far or more: in stairs, as epochs and schedules that
    are not logged make them."""
    fall = np.nan_to_num(steps.fall)
    others = runs(np.flatnonzero(fall >= max(STAIR_SHARE * fall[row], SIGMAS * steps.least_sigma)), steps.side)
    return any(steps.steepest(rows)[1] for rows in others if np.abs(rows - row).min() > steps.side)


def _first_low_row(s: ScreenedColumn, steps: LevelSteps, row: int) -> int:
    """The row of the column at which the level of a row of `steps.y` changes: the largest fall from row to row within a
    row of these before and after."""
    first, last = max((row - 1) * steps.hop, 1), min((row + 2) * steps.hop, s.y.size)
    return first + int(np.argmin(np.diff(s.y[first - 1 : last])))


def _rate_fell(t: Telemetry, step: NDArray[np.int64], row: int) -> bool:
    """Whether the learning rate was lowered at once, in the block of rows before `row` or at it."""
    rate = t.series("lr")
    if rate is None:
        return False
    near = rate.window(int(step[max(row - SIDE_ROWS, 0)]), int(step[min(row + 1, step.size - 1)]) + 1).value
    return bool((near[1:] < (1 - RATE_SHARE) * near[:-1]).any())


def _finding(s: ScreenedColumn, steps: LevelSteps, row: int, at: int, sigma: float) -> Finding:
    before, after = float(steps.before[row]), float(steps.after[row])
    return Finding(
        detector="level_drop",
        kind=KIND.slug,
        column=s.name,
        onset_step=int(s.step[at]),
        onset_interval=onset_interval(s.step, at),
        peak_step=int(s.step[at]),
        recovery_step=None,
        peak=float(s.raw[at]),
        baseline=s.to_raw(before),
        scale=sigma * (s.to_raw(before) if s.log else s.size),
        score=float(steps.fall[row]) / sigma,
        settled=s.to_raw(after),
        outcome=LINGERING,
        figures={"height": (before - after) / s.unit, "ratio": s.to_raw(after) / s.to_raw(before)},
    )


DETECTOR = Detector(
    "level_drop", (KIND,), _detect, no_stream="That a loss stays low is known forty rows later, and asks for no haste."
)
