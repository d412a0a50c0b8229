"""Robust statistics: a scale that a few outliers do not move."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

SIGMA_PER_MAD = 1.4826
"""1 / Φ⁻¹(3/4): the standard deviation of a Gaussian over its median absolute deviation (Rousseeuw & Croux 1993)."""


MEDIAN_ERROR = 1.2533
"""√(π/2): the standard error of the median of n Gaussian values in sigmas, times √n."""


_SORTED = 512
"""Values up to which sorting takes less time than finding the middle ones."""


def median(values: ArrayLike, axis: int | None = None) -> Any:
    """`np.median`, bit for bit: a float64, or with `axis` float64 of one dimension less. It takes a tenth of the time
    where there are few values, as detectors ask thousands of times, and does not import numpy's masked arrays."""
    array = np.asarray(values)
    size = array.size if axis is None else array.shape[axis]
    if array.dtype != np.float64 or not array.size:
        return np.median(array, axis=axis)
    ranked = np.array(array.ravel() if axis is None else np.moveaxis(array, axis, -1))
    half = size // 2
    if array.size <= _SORTED:
        ranked.sort(axis=-1)
    else:
        ranked.partition((max(half - 1, 0), half, size - 1), axis=-1)
    middle = ranked[..., half] if size % 2 else (ranked[..., half - 1] + ranked[..., half]) / 2
    last = ranked[..., -1]
    if axis is None:
        return (last if np.isnan(last) else middle)[()]
    return np.where(np.isnan(last), last, middle)


def different(values: NDArray[np.floating]) -> int:
    """How many different values there are in finite `values`, float[n]."""
    ranked = np.sort(values, axis=None)
    return int(np.count_nonzero(ranked[1:] != ranked[:-1])) + bool(ranked.size)


def robust_sigma(values: NDArray[np.floating], center: float | None = None) -> float:
    """1.4826 · median |x − center|, in the unit of `values`, float[n] with n ≥ 1. `center` is their median unless it is
    given; NaN where a value is NaN."""
    middle = median(values) if center is None else center
    return SIGMA_PER_MAD * float(median(np.abs(values - middle)))


def noise_sigma(values: NDArray[np.floating]) -> float:
    """1.4826 · median |x[i + 1] − x[i]| / √2: robust sigma of consecutive `values`, float[n] with n ≥ 2, about their
    trend, in their unit. Differences remove the trend, and those of independent values scatter √2 times as far as the
    values themselves (von Neumann 1941)."""
    return SIGMA_PER_MAD * float(median(np.abs(np.diff(values)))) / math.sqrt(2)


TREND_ROWS = 48
"""Rows that tell where a column is and where it goes: few enough to follow a falling loss closely."""


def expected(
    values: NDArray[np.floating], sigma: float, ahead: NDArray[np.floating]
) -> tuple[NDArray[np.float64], float]:
    """(lowest, highest) value that finite `values`, float[n] with n ≥ 1 and noise of `sigma`, let expect in the rows
    that are `ahead`, float[m], rows after the last of them: float[m], and one for all.

    Their median, where the later half of the last rows is where the earlier half was, within three standard errors.
    Else what lies between the median of the later half and that median once more as far from the earlier one: a rise
    that goes on evenly is at half of that, one that slows down, as all that begins does, below; none goes further. A
    fall may go on evenly for as long as a run lasts."""
    recent = values[-TREND_ROWS:]
    earlier, later = recent[: recent.size // 2], recent[recent.size // 2 :]
    if earlier.size:
        level = float(median(later))
        rise = level - float(median(earlier))
        if abs(rise) > 3 * MEDIAN_ERROR * sigma * math.sqrt(1 / earlier.size + 1 / later.size):
            evenly = (ahead + (later.size - 1) / 2) / later.size
            return level + min(rise, 0.0) * np.maximum(evenly, 1.0), level + max(rise, 0.0)
    middle = float(median(values))
    return np.full(ahead.size, middle), middle


def detrended(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Finite `values`, float[n], less their trend: of each stretch of about half of `TREND_ROWS`, the line through the
    medians of its halves."""
    count = max(values.size // (TREND_ROWS // 2), 1)
    size, longer = divmod(values.size, count)  # the first ones are longer by a row, as numpy splits
    ends = [(k + 1) * size + min(k + 1, longer) for k in range(count)]
    return np.concatenate([_about_line(values[a:b]) for a, b in pairwise([0, *ends])])


def _about_line(values: NDArray[np.floating]) -> NDArray[np.floating]:
    if values.size < 4:
        return values - median(values)
    half = values.size // 2
    slope = (median(values[-half:]) - median(values[:half])) / (values.size - half)
    residual = values - slope * np.arange(values.size)
    return residual - median(residual)


EMA_ROWS = 50
"""Rows of the exponential moving average that tells the level of a column; its weights fall by 2 / (rows + 1) a row."""

LATEST_ROWS = 10
"""The last rows, from which the average must not be far to tell their level."""

OUTLIER_SIGMAS = 6.0
"""Robust sigmas from the median of all rows beyond which a row counts only as far as that."""


@dataclass(frozen=True)
class Level:
    """The level of a column at its last row, in its own unit.

    `averaged`: it is an exponential moving average; else the median of the last `rows`. `positive`: clearly so, above
    the noise of the rows, none of which is negative.
    """

    value: float
    averaged: bool
    rows: int
    positive: bool

    def ratio(self, value: float) -> float:
        """`value` as a multiple of the level; NaN where one of them is not positive: it has no meaning there."""
        return value / self.value if self.positive and value >= 0 else math.nan


def recent_level(values: NDArray[np.floating]) -> Level:
    """The level of finite `values`, float[n] with n ≥ 1, at their end.

    It is an exponential moving average, which outliers do not move: they are clipped. Where there are fewer rows than
    it averages, or they changed so fast that it is further outside the last ten rows than these are apart, it is the
    median of these.
    """
    latest, recent = values[-LATEST_ROWS:], values[-2 * EMA_ROWS :]
    noise = max(noise_sigma(recent) if recent.size > 1 else 0.0, rounding_sigma(recent))
    lowest = float(recent.min())
    average = _average(values) if values.size >= EMA_ROWS else math.nan
    apart = float(np.ptp(latest)) + 1e-9 * abs(average)  # the mean of equal values may differ in its last bit
    if float(latest.min()) - apart <= average <= float(latest.max()) + apart:
        return Level(average, True, EMA_ROWS, lowest >= 0 and average > noise)
    level = float(median(latest))
    return Level(level, False, latest.size, lowest >= 0 and level > noise)


def _average(values: NDArray[np.floating]) -> float:
    """The exponential moving average of `values` at their end; what is far from their median counts only as far."""
    middle, reach = float(median(values)), OUTLIER_SIGMAS * robust_sigma(values)
    weights = (1 - 2 / (EMA_ROWS + 1)) ** np.arange(values.size - 1, -1, -1.0)
    return float(np.average(np.clip(values, middle - reach, middle + reach), weights=weights))


MOST_PLACES = 7
"""Decimal places from which a log is taken to write a number as it was computed."""


def rounding(values: NDArray[np.floating]) -> float:
    """The unit of the last decimal place with which finite `values`, float[n], were written; 0 where they have more
    than seven of them, which are the digits of float32."""
    for places in range(MOST_PLACES + 1):
        scaled = values * 10.0**places
        if (np.abs(scaled - np.rint(scaled)) <= 1e-9 * np.maximum(np.abs(scaled), 1.0)).all():
            return 10.0**-places
    return 0.0


def rounding_sigma(values: NDArray[np.floating]) -> float:
    """The standard deviation of the rounding error with which finite `values`, float[n], were written: 1/√12 of the
    unit of their last decimal place."""
    return rounding(values) / math.sqrt(12)
