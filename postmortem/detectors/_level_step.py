"""Steps of a column's level: how far the medians on either side of a row are apart, beyond what its trend explains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from postmortem import stats
from postmortem.detectors._rolling import hop_for
from postmortem.detectors._screen import MIN_SCALE, ScreenedColumn
from postmortem.stats import MEDIAN_ERROR, noise_sigma, robust_sigma

Values = NDArray[np.float64]

SIDE_ROWS, LEAST_SIDE_ROWS, SIDES = 20, 8, 8
"""Rows whose median is the level on one side: enough that noise moves it by a quarter of its sigma, few enough that a
trend over two such blocks is a line. A log of fewer than eight such blocks has shorter ones."""

LOCAL_ROWS, _AT_ONCE = 3, 0.7
"""Rows on either side that show at which row a level changed, and the share of a step that is between them where it
changed at once."""


@dataclass(frozen=True, eq=False)
class LevelSteps:
    """float64[n] each, in units of y, for every row with two blocks of `side` rows on each side (NaN elsewhere).

    `fall[i]`: the median of the block before row i minus that of the block from row i on, less what the slope on either
    side makes of it: where the level falls as fast before or after, nothing stepped. So a curve that flattens, one that
    begins to fall, and every straight line have no step. `rise` is the same upward. `bend` is the difference less the
    mean of the two slopes: without a cause it is as often positive as negative. `least_sigma` is what noise alone makes
    of it. Rows are those of `y`, which are `hop` rows of the column."""

    y: Values
    hop: int
    side: int
    before: Values
    after: Values
    fall: Values
    rise: Values
    bend: Values
    least_sigma: float

    def sigma(self, but_near: Iterable[int]) -> float:
        """What a step down of this very column is without a cause, by its noise and its waves: a robust sigma over all
        rows but those whose blocks reach over one of `but_near`; where too few are left, by its noise alone. Only bends
        downwards count: a curve that flattens, as a loss at first, bends the other way."""
        known = self.bend > 0
        for row in but_near:
            known[max(row - 2 * self.side, 0) : row + 2 * self.side] = False
        usual = robust_sigma(self.bend[known], 0.0) if known.sum() >= self.side else 0.0
        return max(usual, self.least_sigma)

    def steepest(self, rows: NDArray[np.intp]) -> tuple[int, bool]:
        """Of neighboring `rows`, the one at which the level falls most, and whether it does so at once there. A few
        rows of another level do not move a median: it may step beside the row where the level does."""
        near = np.clip(rows[:, None] + np.arange(-LOCAL_ROWS, LOCAL_ROWS), 0, self.y.size - 1)
        sides = stats.median(self.y[near].reshape(rows.size, 2, LOCAL_ROWS), axis=2)
        fall = sides[:, 0] - sides[:, 1]
        best = int(np.argmax(fall))
        return int(rows[best]), bool(fall[best] >= _AT_ONCE * (self.before[rows] - self.after[rows]).max())


def level_steps(s: ScreenedColumn) -> LevelSteps | None:
    """The steps of a column; None where it is too short to have one."""
    hop = hop_for(s.y.size)
    y = s.y if hop == 1 else stats.median(s.y[: s.y.size // hop * hop].reshape(-1, hop), axis=1)
    n = y.size
    w = min(max(n // SIDES, LEAST_SIDE_ROWS), SIDE_ROWS)
    if n < 5 * w:
        return None
    level = stats.median(sliding_window_view(y, w), axis=1)  # level[i]: of the rows [i, i + w)
    inner = slice(2 * w, n - 2 * w + 1)
    earlier, before, after, later = level[: n - 4 * w + 1], level[w : n - 3 * w + 1], level[inner], level[3 * w :]
    fall = before - after - np.maximum.reduce([earlier - before, after - later, np.zeros(after.size)])
    rise = after - before - np.maximum.reduce([before - earlier, later - after, np.zeros(after.size)])
    noise = MEDIAN_ERROR * noise_sigma(y) * np.sqrt(2 / w)
    bend = before - after - (earlier - before + after - later) / 2

    def whole(values: Values) -> Values:
        rows = np.full(n, np.nan)
        rows[2 * w : 2 * w + values.size] = values
        return rows

    least = max(float(noise), MIN_SCALE * s.unit)
    return LevelSteps(y, hop, w, whole(before), whole(after), whole(fall), whole(rise), whole(bend), least)
