"""A setting that changes: the clip threshold, or what a batch holds (its samples, tokens, valid labels, ranks).

Such a column is constant, or at least in a band, and one day it is in another band and stays there. Nothing has to
depart with it for that to be worth telling: half of what breaks at a resume is a setting. A band that the column enters
again and again (batches in order of their length, a batch size that is ramped up) is how the run works.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from postmortem.detectors._model import LINGERING, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._steps import runs
from postmortem.incident import Kind
from postmortem.series import Series

BATCH_SIZES = ("tokens", "valid_labels", "batch_size", "accumulation", "world_size")
SETTINGS = ("clip_threshold", *BATCH_SIZES)
"""The columns that are settings, or follow from one. (A rate has a trend and a loss scale adapts itself: they have
detectors of their own.) An infinite clip threshold is a value like any other: nothing is clipped."""

BAND_ROWS = 20
"""Rows before and after a change that lie in two bands which do not overlap: of 40 rows of one noise, those after are
never all above or below those before by chance (once in 10^11)."""

TIMES, LEAST_SHARE = 1.25, 0.01
"""How far the bands are apart, as a factor; two constants may be 1 % apart."""

MOST_CHANGES = 3
"""A column that changes more often is scheduled, or sorted."""

KIND = Kind("setting_change", "changed setting", "cause")


def _detect(t: Telemetry) -> Iterator[Finding]:
    for name in SETTINGS:
        column = t.series(name)
        if column is not None:
            yield from _changes(column)


def _changes(column: Series) -> Iterator[Finding]:
    """The changes of a setting, in order."""
    known = ~np.isnan(column.value) & (column.value >= 0)
    step, value = column.step[known], column.value[known]
    rows = _rows_of_change(value)
    if len(rows) > MOST_CHANGES:
        return
    for row in rows:
        before, after = float(np.median(value[row - BAND_ROWS : row])), float(np.median(value[row : row + BAND_ROWS]))
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
    if value.size < 2 * BAND_ROWS or value.min() == value.max():
        return []
    bands = sliding_window_view(value, BAND_ROWS)
    low, high = bands.min(axis=1), bands.max(axis=1)
    lo, hi, after_lo, after_hi = low[:-BAND_ROWS], high[:-BAND_ROWS], low[BAND_ROWS:], high[BAND_ROWS:]
    times = np.where((lo == hi) & (after_lo == after_hi), 1 + LEAST_SHARE, TIMES)
    changed = ((after_lo > hi) & (after_lo >= times * hi)) | ((after_hi < lo) & (lo >= times * after_hi))
    rows = np.flatnonzero(changed) + BAND_ROWS
    return [int(run[0]) for run in runs(rows, 1)]  # one row between two bands is two changes, of one event


DETECTOR = Detector(
    "setting_change",
    (KIND,),
    _detect,
    no_stream="Settings change where a loop is started again, and a live loop knows its own.",
)
