"""Slow divergence and level shifts of the loss: Page's one-sided CUSUM, dated back to where the sum left zero.

S[i] = max(0, S[i - 1] + min(excess[i] / sigma[i], CAP) - SLACK) > ALARM (Page, Biometrika 41, 1954): the excess of each
row over the median of its past, in robust sigmas and less a slack, is summed and never falls below zero. Each term is
capped, so that no single row raises the alarm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem import stats
from postmortem.detectors._column_stream import ColumnStream
from postmortem.detectors._excursion import (
    LOSS_KINDS,
    BaselineSearch,
    Excursion,
    excursion_finding,
    follow_excursion,
    shape_kind,
    stands_out,
)
from postmortem.detectors._model import Detector, Finding, Telemetry
from postmortem.detectors._rolling import hop_for, trailing_quantiles
from postmortem.detectors._screen import (
    MIN_SCALE,
    NOISE_ROWS,
    REACH_ROWS,
    Rule,
    ScreenedColumn,
    lowest_center,
    lowest_scale,
    rows_of_grid,
    screen,
    screened_column,
)

Values = NDArray[np.float64]

SLACK, CAP, ALARM = 1.5, 8.0, 30.0
"""Robust sigmas: what a row may rise without adding to the sum, the most that one row adds, and the sum that alarms. A
shift of 3 sigmas alarms after some 20 rows; a single row, however high, adds 6.5 at most."""

BASELINE_ROWS, SCALE_LAG_ROWS, MIN_ROWS = 256, 128, 48
"""Rows of past of the median: long enough for a slow rise to stand out; rows by which a second sigma is older, for the
rise itself widens the noise (the smaller one counts); and the fewest rows of past."""

RULE = Rule(sigmas=4.0, floor=0.03, opening=0.03)
"""What the median of the last rows must exceed besides, at the row of the alarm: 4 sigmas and 3 %."""

_RISE_ROWS = 5
"""Rows whose median excess counts at the alarm and for the onset."""

_CHUNK_ROWS, _OVERLAP_ROWS = 65_536, 512
"""Rows that are summed at once, and rows that two chunks share: after the first chunk, a chunk's sum begins at zero."""

_LOOK_AHEAD_ROWS = 512
"""Rows after a drift that are measured against clean rows: twice the baseline, which the drift would raise."""

_ABRUPT_ROWS = 12
"""An alarm within this many rows of the sum's start is a jump: its onset is the first high row."""

_SUM_ROWS = 4_096
"""The most rows over which a live sum is taken where none was taken for long."""

Measures = tuple[Values, Values]
"""float64[n] each, in units of y: the excess of each row over the trailing median, and its sigma; nan and inf where
there is no past. `_terms` makes of them what each row adds to the sum."""


def _detect(t: Telemetry) -> Iterator[Finding]:
    s = screened_column(t.series("loss"), smoothed="loss" in t.smoothed)
    if s is None:
        return
    search, measures = DriftSearch(s.y.size), _measures(s.y, s.unit, hop_for(s.y.size))
    while (e := search.next(s, measures)) is not None:
        yield excursion_finding(s, e, "loss_cusum", *_judge(s, e))
        search.continue_after(e)


def _judge(s: ScreenedColumn, e: Excursion) -> tuple[str, bool]:
    """Kind, and whether it opens an incident."""
    return shape_kind(e, "loss_spike", "level_shift", "divergence"), stands_out(s, e)


@dataclass(frozen=True)
class PartialSum:
    """Page's sum of the rows before `row`, and the row after it last was zero."""

    row: int
    since: int
    value: float


class DriftSearch(BaselineSearch):
    """The search for drifts, one after another: where the sum begins again, and which rows are no baseline."""

    def __init__(self, rows: int) -> None:
        """For a signal of up to `rows` rows."""
        super().__init__(rows)
        self.sum = PartialSum(0, 0, 0.0)

    def next(self, s: ScreenedColumn, measures: Measures, first: int = 0) -> Excursion | None:
        """The next drift. `measures` are those of the rows from `first` on, as if nothing had been found; after a
        drift, the rows that follow are measured against clean rows, in place."""
        start, until = max(self.cursor, first), min(self.cursor + _LOOK_AHEAD_ROWS, s.y.size)
        if start >= s.y.size:
            return None
        if self.cursor and until > start:
            rows = np.concatenate((self.baseline.clean_before(self.cursor, REACH_ROWS), np.arange(self.cursor, until)))
            for values, clean in zip(measures, _measures(s.y[rows], s.unit, 1), strict=True):
                values[start - first : until - first] = clean[start - until :]
        alarm = _first_alarm(s, measures, self.sum, first)
        return None if alarm is None else self._drift(s, *alarm, measures[0], first)

    def continue_after(self, e: Excursion) -> None:
        """Continue the search after a drift."""
        self.baseline.exclude(e)
        self.cursor = max(e.onset + e.course.end, e.row + 1)
        self.sum = PartialSum(self.cursor, self.cursor, 0.0)

    def drop_first(self, rows: int) -> None:
        """The first `rows` rows of the signal were dropped."""
        super().drop_first(rows)
        self.sum = PartialSum(self.sum.row - rows, self.sum.since - rows, self.sum.value)

    def _drift(self, s: ScreenedColumn, start: int, alarm: int, excess: Values, first: int) -> Excursion:
        """Date the onset (a jump by its first high row, a drift by the sum) and follow the loss from the alarm on."""
        onset = start
        half = 0.5 * float(stats.median(excess[max(alarm - _RISE_ROWS + 1, start) - first : alarm + 1 - first]))
        if alarm - start <= _ABRUPT_ROWS:
            onset = start + int(np.argmax(excess[start - first : alarm + 1 - first] >= half))
        before = self.baseline.clean_before(onset, REACH_ROWS)
        exact = screen(np.concatenate((s.y[before], s.y[onset : onset + 1])), RULE, s.unit, hop=1)
        return follow_excursion(s, onset, alarm, alarm, float(exact.center[-1]), float(exact.scale[-1]))


class LiveDriftSearch(DriftSearch):
    """The same search over the latest rows of a loss that grows."""

    finished = last_row_undecided = False
    alert_rows, alert_window = 3, _RISE_ROWS
    """Where the median of the last five rows is high, three of them are."""

    def resume(self, s: ScreenedColumn, cleared: int) -> Excursion | None:
        """The next drift."""
        n = s.y.size
        if n - _SUM_ROWS > self.sum.row:
            self.sum = PartialSum(n - _SUM_ROWS, n - _SUM_ROWS, 0.0)
        first = max(self.cursor, self.sum.row - _ABRUPT_ROWS - _RISE_ROWS, 0)
        lo = max(first - _LOOK_AHEAD_ROWS, 0)
        excess, sigma = (values[first - lo :] for values in _measures(s.y[lo:], s.unit, 1))
        e = self.next(s, (excess, sigma), first)
        if e is None and n - 1 > self.sum.row:  # the next row still moves the last row's sigma
            rows = slice(self.sum.row - first, n - 1 - first)
            sums = _page_sums(_terms(excess[rows], sigma[rows]), self.sum.value)
            zero = np.flatnonzero(sums <= 0)
            since = self.sum.row + int(zero[-1]) + 1 if zero.size else self.sum.since
            self.sum = PartialSum(n - 1, since, float(sums[-1]))
        return e

    def may_find_last_row(self, s: ScreenedColumn) -> bool:
        """Whether a drift may be found at the last row."""
        level = self._safe_level(s, s.y.size - self.alert_window, self.alert_window)
        return int(np.count_nonzero(s.y[-self.alert_window :] > level)) >= self.alert_rows

    def safe_level(self, s: ScreenedColumn, ahead: int) -> float:
        """A level of y below which none of the next `ahead` rows counts as high."""
        return self._safe_level(s, s.y.size, ahead + self.alert_window - 1)

    def _safe_level(self, s: ScreenedColumn, row: int, ahead: int) -> float:
        y = s.y[self.baseline.clean_before(max(row, 0), _LOOK_AHEAD_ROWS)]
        if y.size + ahead <= MIN_ROWS:
            return math.inf
        scale = lowest_scale(y, s.unit, ahead)
        if y.size > SCALE_LAG_ROWS + NOISE_ROWS:
            scale = min(scale, lowest_scale(y[:-SCALE_LAG_ROWS], s.unit, ahead))
        elif y.size > SCALE_LAG_ROWS:
            scale = MIN_SCALE * s.unit
        return lowest_center(y, BASELINE_ROWS, ahead) + max(RULE.sigmas * scale, RULE.floor * s.unit)


def _measures(y: Values, unit: float, hop: int) -> Measures:
    """Excess and sigma of finite values y float64[n]; baseline and noise on every `hop`-th row."""
    center = trailing_quantiles(y, BASELINE_ROWS, hop, (0.5,), MIN_ROWS)[0]
    scale = screen(y, RULE, unit, hop=hop).scale
    lag = -(-SCALE_LAG_ROWS // hop)
    earlier = np.concatenate((np.full(min(lag, scale.size), np.inf), scale[:-lag]))[: scale.size]
    scale = rows_of_grid(np.fmin(scale, np.where(np.isnan(earlier), np.inf, earlier)), hop, 0, y.size)
    excess = rows_of_grid(center, hop, 0, y.size)
    np.subtract(y, excess, out=excess)
    scale[~np.isfinite(excess)] = np.inf
    return excess, scale


def _terms(excess: Values, sigma: Values) -> Values:
    """float64[n]: what each row adds to the sum."""
    return np.minimum(np.nan_to_num(excess) / sigma, CAP) - SLACK


def _first_alarm(s: ScreenedColumn, measures: Measures, begin: PartialSum, first: int) -> tuple[int, int] | None:
    """(row after the sum last was zero, row of the alarm) of the first alarm from `begin` on. `measures` are those of
    the rows from `first` on."""
    excess, sigma = measures
    for lo in range(begin.row - first, excess.size, _CHUNK_ROWS - _OVERLAP_ROWS):
        sums = _page_sums(_terms(excess[lo : lo + _CHUNK_ROWS], sigma[lo : lo + _CHUNK_ROWS]), begin.value)
        for row in np.flatnonzero(sums > ALARM):
            alarm = lo + int(row)
            rise = float(stats.median(excess[max(alarm - _RISE_ROWS + 1, 0) : alarm + 1]))
            if rise > max(RULE.sigmas * float(sigma[alarm]), RULE.floor * s.unit):
                zero = np.flatnonzero(sums[:row] <= 0)
                return first + lo + int(zero[-1]) + 1 if zero.size else begin.since, first + alarm
        if lo + _CHUNK_ROWS >= excess.size:
            break
        row = first + lo + _CHUNK_ROWS - _OVERLAP_ROWS
        begin = PartialSum(row, row, 0.0)
    return None


def _page_sums(terms: Values, value: float = 0.0) -> Values:
    """Page's sum after each row, float64[n], from `value` on."""
    path = terms.cumsum() + value
    return path - np.minimum(np.minimum.accumulate(path), 0.0)


def _stream() -> ColumnStream:
    return ColumnStream("loss_cusum", "loss", LiveDriftSearch, _judge)


DETECTOR = Detector("loss_cusum", LOSS_KINDS, _detect, _stream)
