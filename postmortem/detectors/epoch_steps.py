"""A loss whose level steps at the start of each epoch: the data's order moves it, and no single batch.

A loss that falls at each start and rises in between (a sawtooth) is a shuffle buffer that is too small, sorted shards,
or one order in all epochs. One that falls at each start and goes on falling is a model that has seen the data before:
usual where a small set is trained on for several epochs, and no incident.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._epochs import NEAR_ROWS, epoch_starts
from postmortem.detectors._level_step import level_steps
from postmortem.detectors._model import LINGERING, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._screen import ScreenedColumn, screened_column
from postmortem.incident import Kind
from postmortem.series import Series
from postmortem.stats import median

SIGMAS, FLOOR = 4.0, 0.02
"""What a step at a known place must exceed: sigmas of the steps that this loss has anyway (as at a resume), and 2 %."""

FEWEST, SHARE = 2, 2 / 3
"""Starts at which the level steps in the same direction, and their share of all: with one, two causes agree by chance
more easily."""

KIND = Kind("epoch_steps", "steps of the loss with each epoch", measures="loss")


@dataclass(frozen=True, eq=False)
class EpochSteps:
    """The steps of the loss at the starts of epochs.

    `rows` are int64[k], the rows of the loss that begin an epoch with a step, `starts` the number of all that could be
    judged, and `period` the rows from one of these to the next, by their median. `falls`: the level falls there.
    `returns`: it goes back in between. `before`, `after` are float64[k], the levels on either side of the first row, in
    units of y; `sigma` is what is usual elsewhere."""

    loss: ScreenedColumn
    rows: NDArray[np.int64]
    starts: int
    period: int
    falls: bool
    returns: bool
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    sigma: float


def epoch_level_steps(loss: Series | None, starts: NDArray[np.int64], *, smoothed: bool) -> EpochSteps | None:
    """The steps of a loss at the `starts` of epochs (steps int64[n]); None where they are few, or have no common
    direction. `smoothed`: its log says that it is."""
    if starts.size < FEWEST:
        return None
    s = screened_column(loss, smoothed=smoothed)
    steps = None if s is None or s.near_zero or s.smoothed else level_steps(s)
    if s is None or steps is None:
        return None
    rows = np.searchsorted(s.step, starts) // steps.hop
    rows = rows[(rows >= 2 * steps.side) & (rows <= steps.y.size - 2 * steps.side)]
    if rows.size < FEWEST or np.diff(rows).min(initial=4 * steps.side) < 4 * steps.side:
        return None  # a block beside one start would reach over the next
    near = np.clip(rows[:, None] + np.arange(-NEAR_ROWS, NEAR_ROWS + 1), 0, steps.y.size - 1)
    sigma = steps.sigma(rows.tolist())
    least = max(SIGMAS * sigma, FLOOR * s.unit)
    fall, rise = np.nan_to_num(steps.fall)[near], np.nan_to_num(steps.rise)[near]
    falls = bool((fall.max(axis=1) >= least).sum() >= (rise.max(axis=1) >= least).sum())
    sizes = fall if falls else rise
    steps_here = sizes.max(axis=1) >= least
    if steps_here.sum() < max(FEWEST, SHARE * rows.size):
        return None
    best = near[np.arange(rows.size), sizes.argmax(axis=1)][steps_here]
    before, after = steps.before[best], steps.after[best]
    back = (before[1:] - after[:-1]) * (1 if falls else -1)  # what the level went back by until the next step
    returns = int((back >= least).sum()) >= min(FEWEST, back.size)  # while a model learns fast, its fall hides it
    period = int(median(np.diff(rows))) * steps.hop
    return EpochSteps(s, rows[steps_here] * steps.hop, int(rows.size), period, falls, returns, before, after, sigma)


def _detect(t: Telemetry) -> Iterator[Finding]:
    starts = epoch_starts(t.epoch, t.series("batch_index"), t.restarts)
    steps = epoch_level_steps(t.series("loss"), starts, smoothed="loss" in t.smoothed)
    if steps is None or (steps.falls and not steps.returns):
        return
    s, row = steps.loss, int(steps.rows[0])
    before, after = float(steps.before[0]), float(steps.after[0])
    yield Finding(
        detector="epoch_steps",
        kind=KIND.slug,
        column=s.name,
        onset_step=int(s.step[row]),
        onset_interval=onset_interval(s.step, row),
        peak_step=int(s.step[row]),
        recovery_step=None,
        peak=float(s.raw[row]),
        baseline=s.to_raw(before),
        scale=steps.sigma * (s.to_raw(before) if s.log else s.size),
        score=abs(before - after) / steps.sigma,
        settled=s.to_raw(after),
        outcome=LINGERING,
        figures={
            "height": abs(before - after) / s.unit,
            "steps": float(steps.rows.size),
            "starts": float(steps.starts),
            "period_rows": float(steps.period),
        },
    )


DETECTOR = Detector(
    "epoch_steps", (KIND,), _detect, no_stream="That a step comes again with each epoch is known after several of them."
)
