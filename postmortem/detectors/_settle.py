"""What became of an excursion: its peak, where it settled, and at what level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import DIVERGED, LINGERING, RECOVERED, SETTLE_ROWS, UNRESOLVED
from postmortem.detectors._rolling import forward_median
from postmortem.incident import Outcome

Values = NDArray[np.float64]

HORIZON_ROWS = 1_000
"""How long an excursion is followed; tr1-13B took about 500 iterations to come back."""

BAND_SIGMAS = 2.5
_SOON_ROWS = 5
_LARGE_LOG = float(np.log(1.5))
_LINGER_FLOOR = 0.004


@dataclass(frozen=True)
class Settled:
    """Rows are counted from the onset; `level` is in units of y; `end` is the first row after the excursion.

    With `shape_rows` rows or more from the onset on, more of them change neither peak, recovery nor `end`; with
    `level_rows`, nothing at all."""

    peak: int
    recovery: int | None
    level: float | None
    outcome: Outcome
    abrupt: bool
    decays: bool
    end: int
    shape_rows: int = HORIZON_ROWS + 1
    level_rows: int = HORIZON_ROWS + 1


def settle(y: Values, center: float, scale: float, unit: float) -> Settled:
    """Follow the rows from the onset on (y[0] is the onset) against the level and noise before it.

    Recovered: back in the band of 2.5 sigma and staying there, with no shift left beyond noise. Lingering: settled
    higher. Diverged: a rise by half or more that never came down from its height. Unresolved: the log ends within
    SETTLE_ROWS of the peak without being back.
    """
    h = y[:HORIZON_ROWS]
    band = BAND_SIGMAS * scale
    soon, later = forward_median(h, _SOON_ROWS), forward_median(h, 20)
    back = (h <= center + band) & (soon <= center + band)
    back[0] = False
    if y.size <= HORIZON_ROWS:
        back[-2:] = False
    returned = np.flatnonzero(back)
    if returned.size:
        r = int(returned[0])
        peak = int(np.argmax(h[:r]))
        level, lingers = _afterwards(y, r, center, scale, unit)
        outcome = LINGERING if lingers else RECOVERED
        shape = r + _SOON_ROWS if r + _SOON_ROWS <= HORIZON_ROWS else HORIZON_ROWS + 1
        return Settled(
            peak, r, level, outcome, _abrupt(h, peak, center), True, r, shape, max(shape, r + 3 * SETTLE_ROWS)
        )
    top = float(h.max())
    near = int(np.argmax(h >= top - 3 * scale))
    ends_here = y.size <= HORIZON_ROWS
    level = float(np.median(h[-max(10, h.size // 4) :]))
    decays = level - center < 0.7 * (top - 3 * scale - center)
    if ends_here and h.size - 1 - near < SETTLE_ROWS:
        peak = int(np.argmax(h))
        return Settled(peak, None, None, UNRESOLVED, _abrupt(h, peak, center), decays, h.size)
    if level - center >= max(_LARGE_LOG * unit, 0.5 * (top - center)):
        return Settled(int(np.argmax(h)), None, level, DIVERGED, _abrupt(h, near, center), decays, h.size)
    calm = (np.abs(h - level) <= band) & (np.abs(soon - level) <= band) & (np.abs(later - level) <= band)
    rows = np.flatnonzero(calm)
    recovery = int(rows[0]) if rows.size else None
    last = h.size if recovery is None else max(recovery + 1, min(5, h.size))
    peak = int(np.argmax(h[:last]))
    if recovery is not None and recovery <= peak:
        recovery = peak + 1 if peak + 1 < h.size else None
    end = h.size if recovery is None else recovery
    return Settled(peak, recovery, level, LINGERING, _abrupt(h, peak, center), decays, max(end, 1))


def _afterwards(y: Values, r: int, center: float, scale: float, unit: float) -> tuple[float | None, bool]:
    far = y[r + SETTLE_ROWS : r + 3 * SETTLE_ROWS]
    if far.size < 20:
        far = y[r : r + SETTLE_ROWS]
    if far.size < 3:
        return None, False
    level = float(np.median(far))
    error = 1.2533 * scale * np.sqrt(1 / far.size + 1 / SETTLE_ROWS)
    return level, far.size >= 10 and level - center > max(3 * error, 0.5 * scale, _LINGER_FLOOR * unit)


def _abrupt(h: Values, peak: int, center: float) -> bool:
    return bool(h[:3].max() - center >= 0.5 * (h[peak] - center))
