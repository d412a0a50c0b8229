"""How far a column departed from what its own rows before let expect: what "moved" means, for every panel.

Expected is not one value (`stats.expected`): rows that fell may fall on or stop to fall, and neither is a departure.
The baseline of the detectors (`detectors._screen`) is the upper end of the same range: the median of the last rows,
that of their later half where they fall, and further by their rise where they may rise by themselves.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from postmortem.series import Series, Values
from postmortem.stats import detrended, expected, median, noise_sigma, robust_sigma, rounding_sigma

RELATIVE_FLOOR = 0.01  # the least scale of a column that hardly varies: 1 % of its level
MOVED_Z = 6.0  # robust z from which a column has moved
MOVED_BEYOND = 1.5  # and the least multiple of the largest departure in the baseline
SEVERAL = 3.0  # a multiple of the baseline that is never called flat, however noisy the baseline is
SEEN_RATIO = 5.0  # a column in which no such multiple would count as moved cannot tell that it stood still
STILL_SHARE, STILL_RATIO = 0.5, 1.1  # of what would have moved; or a multiple of what was expected: it stood still
TINY = 1e-300  # instead of 0 in a logarithm or a quotient
LARGEST_LOG = math.log(sys.float_info.max)  # a trend on the logarithm may lead further than any float


@dataclass(frozen=True)
class Departure:
    """The largest departure of a column within the incident's span from what its rows before let expect.

    `baseline` is the expected value that is nearest to `value`. `z` is the distance to it in robust sigmas (signed; on
    the logarithm where the column is positive; 0 for what was expected), `ratio` is value ÷ baseline (NaN where the
    baseline is not clearly positive), `first_step` the first row beyond MOVED_Z in the same direction, `lowest` and
    `highest` the extremes of the rows before. `least` is the ratio from which a departure counts as moved: what this
    column could have shown.
    """

    column: str
    value: float
    step: int
    baseline: float
    z: float
    ratio: float
    first_step: int
    beyond: float  # |departure| ÷ the largest departure within the rows before, same scale
    lowest: float
    highest: float
    least: float = float("nan")

    @property
    def moved(self) -> bool:
        """Whether it is far outside the noise, and larger than every departure in the rows before."""
        return abs(self.z) >= MOVED_Z and self.beyond >= MOVED_BEYOND

    @property
    def several(self) -> bool:
        """Whether it is several times its baseline, or one several times as small; six sigmas where no ratio tells."""
        return abs(self.z) >= MOVED_Z if math.isnan(self.ratio) else not 1 / SEVERAL < self.ratio < SEVERAL

    @property
    def flat(self) -> bool:
        """Whether the column was seen to stand still: what it did is small against what counts as moved, and its noise
        would not have hidden a move. What is neither flat nor moved tells nothing."""
        if self.moved or self.several or self.least > SEEN_RATIO:
            return False
        share = min(abs(self.z) / MOVED_Z, self.beyond / MOVED_BEYOND)
        return share <= STILL_SHARE or 1 / STILL_RATIO <= self.ratio <= STILL_RATIO


def beside_others(series: Series, others: Sequence[Series]) -> Series:
    """`series` as a multiple of the median of `others`, one or more, in the rows that all of them have."""
    step = series.step
    for other in others:
        step = np.intersect1d(step, other.step, assume_unique=True)
    rows = [s.value[np.searchsorted(s.step, step)] for s in (series, *others)]
    with np.errstate(all="ignore"):
        return Series(series.name, step, rows[0] / median(rows[1:], axis=0))


def measure_departure(before: Series, inside: Series, sign: int = 0) -> Departure:
    """The largest departure of the rows `inside` from the finite rows `before`, one or more each; with `sign` ±1,
    upward or downward only. A non-finite value is an infinite departure."""
    past, rows = before.value, inside.value
    finite = np.isfinite(rows)
    middle = float(median(past))
    last_place = rounding_sigma(np.concatenate((past, rows[finite])))
    positive = bool((past > 0).all()) and middle > last_place
    has_ratio = positive or (bool((past >= 0).all()) and middle > max(noise_sigma(past), last_place))

    def scaled(values: Values) -> Values:
        return np.log(np.maximum(values, TINY)) if positive else values

    y, earlier = scaled(rows), scaled(past)
    residual = detrended(earlier)
    lows, high = expected(earlier, robust_sigma(residual, 0.0), _rows_ahead(before, inside))
    steady = bool((lows == high).all())
    residual = earlier - high if steady else residual  # where there is a trend, its noise is what is left without
    floor = RELATIVE_FLOOR * (1.0 if positive else max(abs(float(lows[0])), float(np.abs(residual).max()), TINY))
    scale = max(robust_sigma(residual, 0.0), floor, last_place / middle if positive else last_place)
    widest = max(float(np.abs(residual).max()), scale)
    with np.errstate(invalid="ignore"):
        z, beside = (y - np.clip(y, lows, high)) / scale, y - (lows + high) / 2
    way = sign or (1 if not finite.all() or float(np.max(z)) >= -float(np.min(z)) else -1)
    z, beside = (np.where(finite, values, np.inf * way) for values in (z, beside))
    worst = int(np.lexsort((way * beside, way * z))[-1])
    worst = int(np.argmax(~finite)) if not finite.all() else worst
    same_way = np.sign(z) == np.sign(z[worst])
    first = int(np.argmax(same_way & (np.abs(z) >= min(MOVED_Z, abs(z[worst])))))
    edge = high if beside[worst] > 0 else float(lows[worst])
    baseline = math.exp(min(edge, LARGEST_LOG)) if positive else edge
    value, agrees = float(rows[worst]), sign == 0 or sign * float(z[worst]) >= 0
    return Departure(
        before.name,
        value,
        int(inside.step[worst]),
        baseline,
        float(z[worst]),
        value / baseline if has_ratio and value >= 0 and baseline > 0 else float("nan"),
        int(inside.step[first]),
        abs(float(z[worst])) * scale / widest if agrees else 0.0,
        float(past.min()),
        float(past.max()),
        math.exp(min(max(MOVED_Z * scale, MOVED_BEYOND * widest), LARGEST_LOG)) if positive else float("nan"),
    )


def _rows_ahead(before: Series, inside: Series) -> Values:
    """How many rows of `before` each row of `inside` is after the last of them, float[m]; 1 or more."""
    between = float(median(np.diff(before.step))) if len(before) > 1 else 1.0
    return np.maximum((inside.step - before.step[-1]) / between, 1.0)
