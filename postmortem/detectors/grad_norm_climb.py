"""A gradient norm that climbs so evenly that no row stands out from those before it: a baseline climbs with it.

So blocks of rows are compared with the lowest one so far. A gradient norm may rise by a few times while the rate decays
or the loss flattens, and by more as a training begins; but what begins slows down. Twenty times within some hundred
rows, in every quarter of the way and in its later half no less than in its earlier one, is a training that runs away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from postmortem.detectors._course import HORIZON_ROWS, SYMPTOM_HORIZON_ROWS
from postmortem.detectors._excursion import Excursion, excursion_finding, follow_excursion
from postmortem.detectors._model import Detector, Finding, Telemetry
from postmortem.detectors._screen import MIN_SCALE, NOISE_ROWS, ScreenedColumn, screened_column
from postmortem.incident import Kind
from postmortem.stats import median, noise_sigma

FACTOR_LOG = float(np.log(20))
"""The least climb, in log units."""

LEAST_QUARTER, LEAST_LATER = 0.1, 0.45
"""Shares of the climb: of each quarter of its rows, and of the later half. An exponential one has 0.25 and 0.5. It
begins with the last block that is within the first of these of the lowest."""

MOST_BLOCK_ROWS, LEAST_BLOCK_ROWS, LOG_BLOCKS = 16, 3, 20
"""Rows of a block, whose median is compared; a short log has so many blocks."""

LEAST_BLOCKS = 4
"""Blocks after the lowest one, one for each quarter: a change of fewer is sudden."""

ONSET_SIGMAS = 2.0
"""The climb began after the last row that was no further above the lowest block."""

KIND = Kind("grad_norm_climb", "gradient-norm climb")

Values = NDArray[np.float64]


def _detect(t: Telemetry) -> Iterator[Finding]:
    s = screened_column(t.series("grad_norm"))
    if s is None or not s.log:
        return
    since = 0
    while (e := _climb(s, since)) is not None:
        f = excursion_finding(s, e, "grad_norm_climb", KIND.slug)
        yield replace(f, figures={**f.figures, "rows": float(e.row - e.onset)})
        since = max(e.onset + e.course.end, e.row + 1)


def _climb(s: ScreenedColumn, since: int) -> Excursion | None:
    """The first climb in the rows from `since` on."""
    block = min(max(s.y.size // LOG_BLOCKS, LEAST_BLOCK_ROWS), MOST_BLOCK_ROWS)
    n = (s.y.size - since) // block
    reach = min(HORIZON_ROWS // block, n - 1)
    if reach < LEAST_BLOCKS:
        return None
    levels = median(s.y[since : since + n * block].reshape(n, block), axis=1)
    past = sliding_window_view(np.concatenate((np.full(reach, np.inf), levels[:-1])), reach)
    rise = levels - past.min(axis=1)
    for last in np.flatnonzero(rise >= FACTOR_LOG).tolist():
        low = past[last] <= levels[last] - (1 - LEAST_QUARTER) * rise[last]
        lowest = last - reach + int(np.flatnonzero(low)[-1])
        if _is_even(levels[lowest : last + 1]):
            return _excursion(s, since + lowest * block, since + (last + 1) * block - 1, block)
    return None


def _is_even(path: Values) -> bool:
    """Whether the medians of the blocks from the lowest one on, float64[n] in log units, climb all the way."""
    if path.size <= LEAST_BLOCKS:
        return False
    steps = np.diff(np.interp(np.linspace(0, path.size - 1, 5), np.arange(path.size), path))
    return bool(steps.min() >= LEAST_QUARTER * steps.sum() and steps[2:].sum() >= LEAST_LATER * steps.sum())


def _excursion(s: ScreenedColumn, lowest: int, row: int, block: int) -> Excursion:
    """The climb that `row` shows, from the block that begins with row `lowest` on."""
    level = float(median(s.y[lowest : lowest + block]))
    past = s.y[max(lowest + block - NOISE_ROWS, 0) : lowest + block]
    scale = max(noise_sigma(past), MIN_SCALE * s.unit)
    low = np.flatnonzero(s.y[lowest:row] <= level + ONSET_SIGMAS * scale)
    onset = lowest + (int(low[-1]) + 1 if low.size else 0)
    return follow_excursion(s, onset, row, row, level, scale, SYMPTOM_HORIZON_ROWS)


DETECTOR = Detector(
    "grad_norm_climb",
    (KIND,),
    _detect,
    no_stream="A climb of hundreds of rows is no matter of a row, and the loss that it harms is followed row by row.",
)
