"""The course of an excursion: its peak, where it settled, and at what level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import DIVERGED, LINGERING, RECOVERED, SETTLE_ROWS, UNRESOLVED
from postmortem.detectors._rolling import forward_median
from postmortem.incident import Outcome
from postmortem.stats import MEDIAN_ERROR, median

Values = NDArray[np.float64]

HORIZON_ROWS = 1_000
"""Rows for which an excursion of a loss is followed; tr1-13B took about 500 iterations to come back."""

SYMPTOM_HORIZON_ROWS = 200
"""Rows for which one of another column is followed. Only a loss has a level to come back to: gradient norms, updates
and the worst token follow rate, schedule and what was learned, and a level that held for so long is the new one."""

BAND_SIGMAS = 2.5
"""Half the width of the band, in robust sigmas, in which a row counts as back: 99 % of Gaussian noise is inside."""

SOON_ROWS = 5
"""Rows whose median must be in the band, too: a single low row is no return."""

_LATER_ROWS = 20
"""Rows whose median must be at the new level before a shift counts as settled: a slow drift is not."""

_MIN_LEVEL_ROWS = 20
"""Rows that a level after the return needs, from SETTLE_ROWS after it on; with fewer, the rows right after it serve."""

_LARGE_LOG = float(np.log(1.5))
"""A rise, in log units, by half of the baseline: a loss that keeps it diverged."""

_LINGER_FLOOR = 0.004
"""Log units (0.4 %) that a level must stay above the baseline to count as lingering, however quiet the column is."""

_PEAK_SIGMAS = 3.0
"""Rows within this many sigmas of the highest one count as the top: noise alone decides which of them is highest."""

_DECAY_SHARE = 0.7
"""An excursion decays where its last quarter lost 30 % or more of its height; noise moves that median much less."""

_ABRUPT_ROWS, _ABRUPT_SHARE = 3, 0.5
"""An abrupt excursion reaches half of its height within its first three rows."""


@dataclass(frozen=True)
class Course:
    """What became of an excursion.

    Rows are counted from the onset; `level` is in units of y; `end` is the first row after the excursion. `abrupt`: it
    rose at once. `decays`: it came down, or is coming down. `returned`: it was back in the band of its baseline. Once
    `shape_rows` rows or more from the onset on are known, further rows change neither peak, recovery nor `end`; with
    `level_rows`, they change nothing at all."""

    peak: int
    recovery: int | None
    level: float | None
    outcome: Outcome
    abrupt: bool
    decays: bool
    end: int
    shape_rows: int
    level_rows: int
    returned: bool = False


def trace_course(y: Values, center: float, scale: float, unit: float, horizon: int = HORIZON_ROWS) -> Course:
    """Follow up to `horizon` rows from the onset on, y float64[n] with y[0] the onset, against the level and noise
    before it.

    `center` and `scale` (robust sigma) are in units of y; `unit` is the size of one floor unit in y.

    Recovered: back in the band of 2.5 sigma, and it stays there without a shift beyond noise. Lingering: settled at a
    higher level. Diverged: a rise by half or more that never came down, where the horizon is that of a loss.
    Unresolved: the log ends within SETTLE_ROWS of the peak, before the column is back, and was not up by half for as
    many rows either: what still rises after them needs no later peak to be called diverged.
    """
    rows = y[:horizon]
    band = BAND_SIGMAS * scale
    soon, later = forward_median(rows, SOON_ROWS), forward_median(rows, _LATER_ROWS)
    back = (rows <= center + band) & (soon <= center + band)
    back[0] = False
    if y.size <= horizon:
        back[-2:] = False
    returns = np.flatnonzero(back)
    if returns.size:
        recovery = int(returns[0])
        peak = int(np.argmax(rows[:recovery]))
        level, lingers = _level_after(y, recovery, center, scale, unit)
        outcome = LINGERING if lingers else RECOVERED
        shape = recovery + SOON_ROWS if recovery + SOON_ROWS <= horizon else horizon + 1
        known = max(shape, recovery + 3 * SETTLE_ROWS)
        return Course(peak, recovery, level, outcome, _abrupt(rows, peak, center), True, recovery, shape, known, True)
    top = float(rows.max())
    first_top = int(np.argmax(rows >= top - _PEAK_SIGMAS * scale))
    log_ends, final = y.size <= horizon, horizon + 1
    level = float(median(rows[-max(10, rows.size // 4) :]))
    decays = level - center < _DECAY_SHARE * (top - _PEAK_SIGMAS * scale - center)
    low = np.flatnonzero(soon - center < _LARGE_LOG * unit)
    rows_up = rows.size - 1 - (int(low[-1]) if low.size else -1)
    if log_ends and rows.size - 1 - first_top < SETTLE_ROWS and (decays or rows_up < SETTLE_ROWS):
        peak = int(np.argmax(rows))
        return Course(peak, None, None, UNRESOLVED, _abrupt(rows, peak, center), decays, rows.size, final, final)
    if horizon == HORIZON_ROWS and level - center >= max(_LARGE_LOG * unit, 0.5 * (top - center)):
        abrupt = _abrupt(rows, first_top, center)
        return Course(int(np.argmax(rows)), None, level, DIVERGED, abrupt, decays, rows.size, final, final)
    calm = (np.abs(rows - level) <= band) & (np.abs(soon - level) <= band) & (np.abs(later - level) <= band)
    calm_rows = np.flatnonzero(calm)
    recovery = int(calm_rows[0]) if calm_rows.size else None
    last = rows.size if recovery is None else max(recovery + 1, min(5, rows.size))
    peak = int(np.argmax(rows[:last]))
    if recovery is not None and recovery <= peak:
        recovery = peak + 1 if peak + 1 < rows.size else None
    end = rows.size if recovery is None else recovery
    abrupt = _abrupt(rows, peak, center)
    return Course(peak, recovery, level, LINGERING, abrupt, decays, max(end, 1), final, final)


def _level_after(y: Values, recovery: int, center: float, scale: float, unit: float) -> tuple[float | None, bool]:
    """(the level after the return, None where too few rows follow; whether it stays above the baseline)."""
    after = y[recovery + SETTLE_ROWS : recovery + 3 * SETTLE_ROWS]
    if after.size < _MIN_LEVEL_ROWS:
        after = y[recovery : recovery + SETTLE_ROWS]
    if after.size < 3:
        return None, False
    level = float(median(after))
    error = MEDIAN_ERROR * scale * np.sqrt(1 / after.size + 1 / SETTLE_ROWS)
    return level, after.size >= 10 and level - center > max(3 * error, 0.5 * scale, _LINGER_FLOOR * unit)


def _abrupt(rows: Values, peak: int, center: float) -> bool:
    return bool(rows[:_ABRUPT_ROWS].max() - center >= _ABRUPT_SHARE * (rows[peak] - center))
