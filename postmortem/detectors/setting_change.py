"""A setting that changes: the clip threshold, or what a batch holds (its samples, tokens, valid labels, ranks).

Such a column is constant, or at least in a band, and one day it is in another band and stays there. Nothing has to
depart with it for that to be worth telling: half of what breaks at a resume is a setting. A band that the column enters
again and again (batches in order of their length, a batch size that is ramped up) is how the run works.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import LINGERING, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._steps import runs
from postmortem.incident import Kind
from postmortem.series import Series
from postmortem.stats import median

BATCH_SIZES = ("tokens", "valid_labels", "batch_size", "accumulation", "world_size")
SETTINGS = ("clip_threshold", *BATCH_SIZES)
"""The columns that are settings, or follow from one. (A rate has a trend and a loss scale adapts itself: they have
detectors of their own.) An infinite clip threshold is a value like any other: nothing is clipped."""

BAND_ROWS, TIMES = 20, 1.25
"""Rows before and after a change that lie in two bands, and how far these are apart, as a factor. Of 40 rows of one
noise, those after are never all above or below those before by chance (once in 10^11)."""

CONSTANT_ROWS, LEAST_TIMES = 8, 1.01
"""The same for two constants, which need no rows to tell them from noise; but a few short batches are no setting."""

MOST_CHANGES = 3
"""A column that changes more often is scheduled, or sorted."""

KIND = Kind("setting_change", "changed setting", "cause")


def _detect(t: Telemetry) -> Iterator[Finding]:
    for name in SETTINGS:
        column = t.series(name)
        if column is not None:
            yield from _changes(_with_none(t, column) if name == "clip_threshold" else column)


def _with_none(t: Telemetry, threshold: Series) -> Series:
    """A clip threshold that is not logged any more after a resume, where the gradient norm still is, is none: infinite
    in these rows."""
    norm, last = t.series("grad_norm"), int(threshold.step[-1])
    resume = next((step for step in t.restarts if step > last), None)
    since = np.empty(0, np.int64) if norm is None else norm.step[norm.step > last]
    if resume is None or not since.size or since[0] < resume:
        return threshold
    value = np.append(threshold.value, np.full(since.size, np.inf))
    return Series(threshold.name, np.append(threshold.step, since), value)


def _changes(column: Series) -> Iterator[Finding]:
    """The changes of a setting, in order."""
    known = ~np.isnan(column.value) & (column.value >= 0)
    step, value = column.step[known], column.value[known]
    rows = _rows_of_change(value)
    if len(rows) > MOST_CHANGES:
        return
    for row in rows:
        sides = value[max(row - BAND_ROWS, 0) : row], value[row : row + BAND_ROWS]
        before, after = (float(median(side)) for side in sides)
        low, high = sorted((before, after))
        factor = high / low if low > 0 and np.isfinite(high) else np.inf
        yield Finding(
            detector="setting_change",
            kind=KIND.slug,
            column=column.name,
            onset_step=int(step[row]),
            onset_interval=onset_interval(step, row),
            peak_step=int(step[row]),
            recovery_step=None,
            peak=after,
            baseline=before,
            scale=0.0,
            score=np.inf,
            settled=after,
            outcome=LINGERING,
            figures={"factor": factor, "height": float(np.log(min(factor, 1e9)))},
        )


def _rows_of_change(value: NDArray[np.float64]) -> list[int]:
    """The first row of each new band, value float64[n], not negative and without NaN."""
    if value.size < 2 * CONSTANT_ROWS or value.min() == value.max():
        return []
    rows = np.union1d(_band_starts(value, CONSTANT_ROWS, LEAST_TIMES, constant=True), _band_starts(value))
    return [int(run[0]) for run in runs(rows, 1)]  # one row between two bands is two changes, of one event


def _band_starts(
    value: NDArray[np.float64], width: int = BAND_ROWS, times: float = TIMES, *, constant: bool = False
) -> NDArray[np.intp]:
    """The rows from which on `width` rows lie in another band than those before."""
    if value.size < 2 * width:
        return np.empty(0, np.intp)
    low, high = _over_rows(np.minimum, value, width), _over_rows(np.maximum, value, width)
    lo, hi, after_lo, after_hi = low[:-width], high[:-width], low[width:], high[width:]
    changed = ((after_lo > hi) & (after_lo >= times * hi)) | ((after_hi < lo) & (lo >= times * after_hi))
    if constant:
        changed &= (lo == hi) & (after_lo == after_hi)
    rises = _over_rows(np.logical_and, value[1:] > value[:-1], width - 1)
    return np.flatnonzero(changed & ~(rises[:-width] & rises[width:])) + width  # that is a total which began anew


def _over_rows(extreme: np.ufunc, rows: NDArray[Any], width: int) -> NDArray[Any]:
    """The extreme of the rows [i, i + width), for each i: in log2(width) passes, as stretches double."""
    reached = 1
    while reached < width:
        further = min(reached, width - reached)
        rows = extreme(rows[:-further], rows[further:])
        reached += further
    return rows


DETECTOR = Detector(
    "setting_change",
    (KIND,),
    _detect,
    no_stream="Settings change where a loop is started again, and a live loop knows its own.",
)
