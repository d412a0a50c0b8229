"""A loss that is higher after a resume than before it: where the change is known, two samples are compared.

A search for a change anywhere must be deaf to small ones; at a resume, one comparison is made, and 4 sigmas are passed
by chance once in 30,000 resumes. The block of rows after it is compared with the blocks before it, by their medians.
What such a difference is without a resume, with all drift and all waves of this very loss, the blocks of the past show.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from postmortem.detectors._course import HORIZON_ROWS
from postmortem.detectors._excursion import LEVEL_SHIFT
from postmortem.detectors._model import LINGERING, RECOVERED, UNRESOLVED, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._screen import ScreenedColumn, screened_column
from postmortem.stats import MEDIAN_ERROR, median, robust_sigma

BLOCKS, MOST_BLOCKS, LEAST_ROWS, MOST_ROWS = 12, 40, 20, 100
"""The fewest and the most blocks of past that are compared, and the least and the most rows of a block."""

BASE_BLOCKS = 4
"""Blocks before a block that it is compared with."""

SIGMAS, FLOOR = 4.0, 0.03
"""What a shift must exceed: sigmas of the differences that the past shows, and 3 % (log units; on the linear scale of
the column's median size). It must exceed each of these differences, too."""

_KEPT_SHARE, _LEAST_LATER = 0.5, 2
"""The shift is over with the first block in which less than half of it is left; fewer blocks leave it unresolved."""

_LINGER_ERRORS = 2.0
"""Standard errors by which the mean of the rows that follow exceeds that of as many rows before, where it lingers."""

Values = NDArray[np.float64]


def _detect(t: Telemetry) -> Iterator[Finding]:
    if not t.restarts:
        return
    s = screened_column(t.series("loss"), smoothed="loss" in t.smoothed)
    if s is None or s.near_zero or s.smoothed:
        return
    rows = sorted({int(row) for row in np.searchsorted(s.step, np.asarray(t.restarts, dtype=np.int64))})
    for row, until in zip(rows, [*rows[1:], s.y.size], strict=True):
        f = _shift(s, row, min(until, row + HORIZON_ROWS + MOST_ROWS))
        if f is not None:
            yield f


def _shift(s: ScreenedColumn, row: int, until: int) -> Finding | None:
    """The shift at the resume of `row`, followed up to row `until`; None where there is none, or too few rows."""
    width = min(max(row // BLOCKS, LEAST_ROWS), MOST_ROWS)
    after = s.y[row : min(row + width, until)]
    blocks = min(row // width, MOST_BLOCKS)
    if blocks < BLOCKS or after.size < max(LEAST_ROWS, width // 2):
        return None
    past = s.y[row - blocks * width : row].reshape(blocks, width)
    levels = median(past, axis=1)
    bases = sliding_window_view(levels, BASE_BLOCKS).mean(axis=1)
    usual = levels[BASE_BLOCKS:] - bases[:-1]
    base, rise = float(bases[-1]), float(median(after) - bases[-1])
    noise = MEDIAN_ERROR * robust_sigma(past[-1]) * np.sqrt(1 / after.size + 1 / (BASE_BLOCKS * width))
    sigma = max(robust_sigma(usual), float(noise))
    if rise < max(SIGMAS * sigma, float(usual.max()), FLOOR * s.unit):
        return None
    whole = max((until - row) // width, 1)
    later = np.array([median(block) for block in np.array_split(s.y[row : row + whole * width], whole)])
    back = np.flatnonzero(later <= base + _KEPT_SHARE * rise)
    settled = row + int(back[0]) * width if back.size and back[0] > 0 else None
    rest = s.y[row if settled is None else settled : until]
    lingers = settled is None or _higher(rest, s.y[max(row - rest.size, 0) : row])
    peak = row + int(np.argmax(after))
    return Finding(
        detector="resume_shift",
        kind=LEVEL_SHIFT.slug,
        column=s.name,
        onset_step=int(s.step[row]),
        onset_interval=onset_interval(s.step, row),
        peak_step=int(s.step[peak]),
        recovery_step=None if settled is None else int(s.step[settled]),
        peak=float(s.raw[peak]),
        baseline=s.to_raw(base),
        scale=sigma * (s.to_raw(base) if s.log else s.size),
        score=rise / sigma,
        settled=s.to_raw(float(np.mean(rest))),
        outcome=UNRESOLVED if later.size < _LEAST_LATER else LINGERING if lingers else RECOVERED,
        figures={"height": rise / s.unit, "ratio": s.to_raw(base + rise) / s.to_raw(base), "rows": float(width)},
    )


def _higher(rest: Values, before: Values) -> bool:
    """Whether the rows that follow are higher than those before the resume, beyond their noise."""
    error = np.sqrt(np.var(rest) / rest.size + np.var(before) / before.size)
    return bool(np.mean(rest) - np.mean(before) > _LINGER_ERRORS * error)


DETECTOR = Detector(
    "resume_shift", (LEVEL_SHIFT,), _detect, no_stream="A live loop that was resumed has not seen the rows before it."
)
