"""How far each row is above its own past, and how far it would have to be to count as abnormal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._course import HORIZON_ROWS, SYMPTOM_HORIZON_ROWS
from postmortem.detectors._rolling import CHUNK_ROWS, hop_for, local_noise, trailing_extremes, trailing_quantiles
from postmortem.series import Series
from postmortem.stats import detrended, different, median, rounding

Values = NDArray[np.float64]

CENTER_ROWS, NOISE_ROWS, TAIL_ROWS, MIN_ROWS = 48, 96, 1024, 12
"""Rows of past for the baseline, for its noise, for its tail; and the fewest that are enough for a verdict. A median of
48 rows follows a falling loss closely, and a 16 % quantile of 96 rows is off by 0.15 sigma (standard error)."""

FEWEST_LOSS_ROWS = MIN_ROWS + 1
"""The fewest finite rows of a loss of which the last one can be judged against its own past."""

REACH_ROWS = TAIL_ROWS + CENTER_ROWS
"""Rows of past that an exact verdict on one row needs."""

_LOW_QUANTILE = 0.16
"""Φ(-1): the quantile one sigma below the median of Gaussian noise."""

MIN_SCALE = 1e-3
"""The least sigma, in floor units: a column that never moved has no noise, and a score needs some."""

MIN_UNIT = 1e-9
"""The least floor unit, as a share of the largest absolute value: most rows of a column may be 0."""

_SMOOTHED_CORRELATION = 0.4
"""The correlation of neighbors from which on a column counts as smoothed. An average with a decay of 0.5 has 0.36 in
stretches of so many rows, one of 0.9 has 0.65."""

_NOISY_SHARE = 0.5
"""How much the changes from row to row change, as a share of them: 1.7 in noise, 1.4 where it is smoothed; at most 0.2
along a curve."""

_STRETCH_ROWS, _FEWEST_STRETCHES, _STRETCHES = 32, 16, 128
"""Rows of a stretch that may have a trend of its own; the fewest stretches, and the latest ones, that are looked at.
The median of 16 such correlations of independent noise is −0.06 ± 0.05. Shorter logs are smoothed where they say so."""

_FEWEST_VALUES, _LOOK_AT = 10, 4_096
"""Different values that show to which digit a column was rounded, among its first rows."""

_NEAR_ZERO_DIGITS, MEANT_DIGITS = 20.0, 100.0
"""Units of the last digit of a log: below so many in the median, ratios mean nothing (0.0003, not 0.0020); and what an
excursion of such a column must be high."""

_NOISE_TO_SIGMA = 1 / 1.164
"""Median minus 16 % quantile of `local_noise` is 1.164 sigma on independent Gaussian noise (10^6 draws)."""

_TAIL_FACTOR, _UPPER_FACTOR = 2.3, 1.6
"""Factors of the second lowest and of the fourth highest of 1,024 rows of noise. Both stay below 7 sigma on Gaussian
noise, so that neither matters there, and both grow with the tail: under Student's t with 4 degrees of freedom, about
one row in 10^4 passes the first."""


_FEW_RANGES = 1.4
"""Few rows give a poor estimate of sigma; their range is safer: 1.4 times that of 12 rows is about 4.6 sigma."""


@dataclass(frozen=True)
class Rule:
    """What counts as abnormal in one column.

    A row must be `sigmas` of robust noise above its baseline, and at least `floor` (in log units where the column is
    positive, else a fraction of its median size). From `opening` up (same unit as `floor`), the excursion opens an
    incident by itself. `wanders`: it may rise by itself, as no loss does: its baseline goes on with a rise, and a level
    that holds is its new one.
    """

    sigmas: float = 7.0
    floor: float = 0.03
    opening: float = 0.0
    wanders: bool = False

    @property
    def horizon(self) -> int:
        """Rows for which an excursion is followed."""
        return SYMPTOM_HORIZON_ROWS if self.wanders else HORIZON_ROWS


@dataclass(frozen=True, eq=False)
class ScreenedColumn:
    """The finite rows of a column on the scale on which its noise is even: log where all are positive, else linear.

    `step` is int64[n], strictly increasing; `raw` is float64[n] in the column's own unit, `y` on the scale.
    """

    name: str
    step: NDArray[np.int64]
    raw: Values
    y: Values
    log: bool
    unit: float
    """Size of one floor unit in y: 1 on the log scale, else the median size of the column."""
    size: float
    """Linear scale only: raw = y * size, with size the largest absolute value (differences cannot overflow)."""
    known_smoothed: bool = False

    @cached_property
    def last_digit(self) -> float:
        """The unit of the last decimal that the column was logged with; 0 where it was not rounded, or has too few
        different values to tell."""
        return rounding(self.raw[:_LOOK_AT]) if different(self.raw[:_LOOK_AT]) >= _FEWEST_VALUES else 0.0

    @cached_property
    def near_zero(self) -> bool:
        """Whether ratios mean nothing: the column is signed, or few units of its last digit high. Exact zeros at its
        end say neither (some trainers write them for NaN)."""
        (nonzero,) = np.nonzero(self.raw)
        known = self.raw[: nonzero[-1] + 1] if nonzero.size else self.raw[:0]
        middle = float(median(known)) if known.size else 1.0
        return bool(known.size) and (known.min() < 0 or middle == 0 or middle < _NEAR_ZERO_DIGITS * self.last_digit)

    @cached_property
    def smoothed(self) -> bool:
        """Whether its rows are averages over the rows before them, by the log's own word or as its noise shows.

        Neighbors of an average depart together: their correlation, each stretch about its own line, is high. A trend is
        no such noise: its changes from row to row hardly change themselves.
        """
        stretches = self.y.size // _STRETCH_ROWS
        if self.known_smoothed or stretches < _FEWEST_STRETCHES:
            return self.known_smoothed
        rows = self.y[-min(stretches, _STRETCHES) * _STRETCH_ROWS :].reshape(-1, _STRETCH_ROWS)
        row = np.arange(_STRETCH_ROWS) - (_STRETCH_ROWS - 1) / 2
        rows = rows - rows.mean(axis=1, keepdims=True)
        rows = rows - np.outer(rows @ row / (row @ row), row)
        size = np.sum(rows**2, axis=1)
        together = np.sum(rows[:, 1:] * rows[:, :-1], axis=1)[size > 0] / size[size > 0]
        changes = np.diff(rows, axis=1)
        noisy = median(np.abs(np.diff(changes, axis=1))) >= _NOISY_SHARE * median(np.abs(changes))
        return bool(together.size and noisy) and float(median(together)) >= _SMOOTHED_CORRELATION

    def to_raw(self, y: float) -> float:
        """A value of y in the column's own units."""
        return float(np.exp(y)) if self.log else float(y) * self.size


def screened_column(series: Series | None, log: bool = True, smoothed: bool = False) -> ScreenedColumn | None:
    """A column on the log scale where all rows are positive and `log` allows it, else on the linear one. `smoothed`:
    its log says that it is.

    None where it was never logged, where nothing finite is left, or where all rows are the same (a constant column is
    a missing panel).
    """
    if series is None:
        return None
    finite = np.isfinite(series.value)
    step, raw = (series.step, series.value) if finite.all() else (series.step[finite], series.value[finite])
    if raw.size < 2 or raw.min() == raw.max():
        return None
    if log and raw.min() > 0:
        return ScreenedColumn(series.name, step, raw, np.log(raw), True, 1.0, 1.0, smoothed)
    size = float(max(raw.max(), -raw.min()))
    y = raw / size
    unit = max(float(median(np.abs(y))), MIN_UNIT)
    return ScreenedColumn(series.name, step, raw, y, False, unit, size, smoothed)


@dataclass(frozen=True, eq=False)
class Screen:
    """float64[ceil(n / hop)] each, in units of y, for every `hop`-th row: baseline, robust sigma, and the excess from
    which a row is abnormal (inf where the past is too short for a verdict)."""

    hop: int
    center: Values
    scale: Values
    limit: Values

    def rows_above(self, y: Values) -> NDArray[np.intp]:
        """The rows whose excess over their baseline passes their limit."""
        level = self.center + self.limit
        above = np.empty(y.size, np.bool_)
        with np.errstate(invalid="ignore"):
            for lo in range(0, y.size, CHUNK_ROWS):
                hi = min(lo + CHUNK_ROWS, y.size)
                np.greater(y[lo:hi], rows_of_grid(level, self.hop, lo, hi), out=above[lo:hi])
        return np.flatnonzero(above)


def screen(y: Values, rule: Rule, unit: float, hop: int | None = None, min_scale: float = 0.0) -> Screen:
    """Screen finite values y float64[n]. Exact where `hop` is 1; `min_scale` is a sigma known from before these rows.

    The noise is read from the lower side only, and from rows against their neighbors as well as against their past:
    so a spike in the past does not widen it, and a trend does not hide in it. The baseline follows a trend (`_trend`).
    """
    hop = hop_for(y.size) if hop is None else hop
    center = trailing_quantiles(y, CENTER_ROWS, hop, (0.5,), MIN_ROWS)[0]
    noise = local_noise(y)
    low, mid = trailing_quantiles(noise, NOISE_ROWS, hop, (_LOW_QUANTILE, 0.5), MIN_ROWS)
    scale = np.maximum((mid - low) * _NOISE_TO_SIGMA, _wander_sigma(y, center, hop))
    scale = np.maximum(scale, max(min_scale, MIN_SCALE * unit))
    divisors = np.where(np.isnan(scale), np.inf, scale)
    for lo in range(0, y.size, CHUNK_ROWS):
        noise[lo : lo + CHUNK_ROWS] /= rows_of_grid(divisors, hop, lo, min(lo + CHUNK_ROWS, y.size))
    noise[:CENTER_ROWS] = 0.0
    low, high = trailing_extremes(noise, TAIL_ROWS, hop)
    sigmas = np.maximum.reduce([np.full_like(scale, rule.sigmas), -_TAIL_FACTOR * low, _UPPER_FACTOR * high])
    short_past = _short_past_excess(y, hop, scale.size, rule.wanders)
    limit = np.maximum(np.maximum(sigmas * scale, rule.floor * unit), short_past)
    level, rise = _trend(y, hop)
    center = np.minimum(center, level)
    if rule.wanders:
        center += np.maximum(rise, 0.0)
    return Screen(hop, center, scale, np.where(np.isfinite(limit), limit, np.inf))


def rows_of_grid(grid: Values, hop: int, lo: int, hi: int) -> Values:
    """float64[hi - lo]: what a value for every `hop`-th row is in the rows from `lo` to `hi`."""
    first = lo // hop
    return np.repeat(grid[first : -(-hi // hop)], hop)[lo - first * hop : hi - first * hop]


def _trend(y: Values, hop: int) -> tuple[Values, Values]:
    """(the median of the later half of the past of each row, by how much it exceeds that of the earlier half), of the
    last CENTER_ROWS rows or all there are: float64[ceil(n / hop)] each, in units of y; nan where there is no past.

    The halves are half a past apart, and so is the median of the whole from the row that follows: a column that rises
    evenly is there by the same rise, and one that falls is at its later half or below. A rise that slows down, as
    all that begins does, ends below that; it is bounded by what half the past did.
    """
    half = CENTER_ROWS // 2
    rows = np.arange(0, y.size, hop)
    level = trailing_quantiles(y, half, hop, (0.5,), MIN_ROWS)[0]
    shift = -(-half // hop)
    rise = np.full(rows.size, np.nan)
    rise[shift:] = (level[shift:] - level[:-shift]) * half / (shift * hop)
    for g in range(*np.searchsorted(rows, (MIN_ROWS, CENTER_ROWS)).tolist()):
        past = y[: rows[g]]
        earlier, level[g] = _middle(past[: past.size // 2]), _middle(past[past.size // 2 :])
        rise[g] = level[g] - earlier
    return level, rise


def _middle(y: Values) -> float:
    """The nearest-rank median of float64[n], as `trailing_quantiles` has it."""
    ranked = np.array(y)
    ranked.sort()
    return float(ranked[round(0.5 * (y.size - 1))])


def _wander_sigma(y: Values, center: Values, hop: int) -> Values:
    """Robust sigma, lower side, of past rows about the median of the rows around them (a slow wave is noise, too)."""
    half = CENTER_ROWS // 2
    shift = -(-half // hop)
    if y.size <= half or center.size <= shift:
        return np.zeros_like(center)
    residual = np.zeros_like(y)
    for lo in range(0, y.size - half, CHUNK_ROWS):
        hi = min(lo + CHUNK_ROWS, y.size - half)
        residual[lo:hi] = np.nan_to_num(y[lo:hi] - rows_of_grid(center, hop, lo + half, hi + half))
    low, mid = trailing_quantiles(residual, NOISE_ROWS, hop, (_LOW_QUANTILE, 0.5), CENTER_ROWS)
    wander = np.zeros_like(center)
    wander[shift:] = (mid - low)[:-shift]
    return np.nan_to_num(wander)


def _short_past_excess(y: Values, hop: int, rows: int, wanders: bool) -> Values:
    """The excess that a row with fewer than CENTER_ROWS rows of past must have as well: _FEW_RANGES times the range of
    the MIN_ROWS rows before it, about their trend unless the column `wanders`. 0 further on."""
    excess = np.zeros(rows)
    for g, row in enumerate(range(0, min(y.size, CENTER_ROWS), hop)):
        if row >= MIN_ROWS:
            past = y[row - MIN_ROWS : row]
            excess[g] = _FEW_RANGES * np.ptp(past if wanders else detrended(past))
    return excess


def safe_level(y: Values, rule: Rule, unit: float, ahead: int) -> float:
    """A level below which none of the next `ahead` rows can be abnormal, whatever their values: cheaper than `screen`,
    and below its limits. inf where those rows have too little past for a verdict.

    Each new row moves a quantile of the rows before it by at most one rank; the two newest rows of noise are not final.
    """
    if y.size + ahead <= MIN_ROWS:
        return math.inf
    past = min(y.size, CENTER_ROWS)
    center = min(lowest_center(y, window, ahead) for window in (past, past - past // 2))
    return center + max(rule.sigmas * lowest_scale(y, unit, ahead), rule.floor * unit)


def lowest_center(y: Values, window: int, ahead: int) -> float:
    """The lowest value that the median of the `window` rows before each of the next `ahead` rows can have."""
    ranked = np.sort(y[-window:])
    rank = round(0.5 * (ranked.size - 1)) - (ahead - 1)
    return float(ranked[rank]) if rank >= 0 else -math.inf


def lowest_scale(y: Values, unit: float, ahead: int) -> float:
    """The lowest value that the sigma of each of the next `ahead` rows can have."""
    ranked = np.sort(local_noise(y[-(NOISE_ROWS + 4) :])[-NOISE_ROWS:])
    last, moved = ranked.size - 1, ahead + 2
    low, mid = round(_LOW_QUANTILE * last) + moved, round(0.5 * last) - moved
    return max(float(ranked[mid] - ranked[low]) * _NOISE_TO_SIGMA if mid > low else 0.0, MIN_SCALE * unit)
