"""Slow divergence and level shifts of the loss: Page's one-sided CUSUM, dated back to where the sum left zero.

The rise of each row over the median of its past, in robust sigmas less a slack, is summed and never falls below zero
(Page, Biometrika 41, 1954). Each term is capped, so that no single row raises the alarm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._excursion import LOSS_KINDS, Excursion, Past, finding, followed, shape_kind
from postmortem.detectors._model import Detector, Finding, Telemetry
from postmortem.detectors._rolling import hop_for, trailing_quantiles
from postmortem.detectors._screen import (
    NOISE_ROWS,
    REACH,
    Rule,
    ScreenedColumn,
    least_center,
    least_scale,
    screen,
    signal,
)
from postmortem.detectors._tracking import ColumnStream

Values = NDArray[np.float64]

SLACK, CAP, ALARM = 1.5, 8.0, 30.0
BASELINE_ROWS, SCALE_LAG_ROWS, LEAST_ROWS = 256, 128, 48
RULE = Rule(sigmas=4.0, floor=0.03, opening=0.03)
_CHUNK, _OVERLAP, _LOOK_AHEAD, _ABRUPT_ROWS = 65_536, 512, 512, 12
_SUM_ROWS = 4_096
"""Rows over which a live sum is taken at most where none was taken for long."""


Terms = tuple[Values, Values, Values]
"""CUSUM terms, excess over the trailing median, and sigma of each row (-SLACK, nan, inf where there is no past)."""


def _find(t: Telemetry) -> Iterator[Finding]:
    series = t.series("loss")
    s = signal(series) if series is not None else None
    if s is None:
        return
    search, terms = DriftSearch(s.y.size), _terms(s.y, s.unit, hop_for(s.y.size))
    while (e := search.next(s, terms)) is not None:
        yield finding(s, e, "loss_cusum", _kind(e))
        search.take(e)


def _kind(e: Excursion) -> str:
    return shape_kind(e, "loss_spike", "level_shift", "divergence")


@dataclass(frozen=True)
class Sum:
    """The sum of the rows before `row`, and the row after it last left zero."""

    row: int
    since: int
    value: float


class DriftSearch:
    """The search for drifts, one after another: where the sum begins anew, and which rows are no baseline."""

    def __init__(self, rows: int) -> None:
        """For a signal of up to `rows` rows."""
        self.past = Past(rows)
        self.cursor = 0
        self.sum = Sum(0, 0, 0.0)

    def next(self, s: ScreenedColumn, terms: Terms, first: int = 0) -> Excursion | None:
        """The next drift. `terms` are those of the rows from `first` on as if nothing had been found; after a find
        those of the rows that come next are measured against clean ones, in place."""
        start, until = max(self.cursor, first), min(self.cursor + _LOOK_AHEAD, s.y.size)
        if start >= s.y.size:
            return None
        if self.cursor and until > start:
            rows = np.concatenate((self.past.before(self.cursor, REACH), np.arange(self.cursor, until)))
            for known, clean in zip(terms, _terms(s.y[rows], s.unit, 1), strict=True):
                known[start - first : until - first] = clean[start - until :]
        found = _alarm(s, terms, self.sum, first)
        return None if found is None else self._follow(s, *found, terms[1], first)

    def take(self, e: Excursion) -> None:
        """Go on behind a drift."""
        self.past.take_out(e)
        self.cursor = max(e.onset + e.settled.end, e.row + 1)
        self.sum = Sum(self.cursor, self.cursor, 0.0)

    def _follow(self, s: ScreenedColumn, start: int, at: int, excess: Values, first: int) -> Excursion:
        """Date the onset (a jump by its first high row, a drift by the sum) and follow the loss from the alarm on."""
        onset = start
        half = 0.5 * float(np.median(excess[max(at - 4, start) - first : at + 1 - first]))
        if at - start <= _ABRUPT_ROWS:
            onset = start + int(np.argmax(excess[start - first : at + 1 - first] >= half))
        before = self.past.before(onset, REACH)
        fine = screen(np.concatenate((s.y[before], s.y[onset : onset + 1])), RULE, s.unit, hop=1)
        return followed(s, onset, at, at, float(fine.center[-1]), float(fine.scale[-1]))


class LiveDriftSearch(DriftSearch):
    """The same search over the latest rows of a loss that grows."""

    over = hangs = False
    enough, among = 3, 5
    """Where the median of the last five rows is high, three of them are."""

    def resume(self, s: ScreenedColumn, cleared: int) -> Excursion | None:
        """The next drift."""
        n = s.y.size
        if n - _SUM_ROWS > self.sum.row:
            self.sum = Sum(n - _SUM_ROWS, n - _SUM_ROWS, 0.0)
        first = max(self.cursor, self.sum.row - _ABRUPT_ROWS - 5, 0)
        lo = max(first - _LOOK_AHEAD, 0)
        terms, excess, sigma = _terms(s.y[lo:], s.unit, 1)
        terms = terms[first - lo :]
        e = self.next(s, (terms, excess[first - lo :], sigma[first - lo :]), first)
        if e is None and n - 1 > self.sum.row:  # the row after it still moves the last row's sigma
            sums = _sums(terms[self.sum.row - first : n - 1 - first], self.sum.value)
            zero = np.flatnonzero(sums <= 0)
            since = self.sum.row + int(zero[-1]) + 1 if zero.size else self.sum.since
            self.sum = Sum(n - 1, since, float(sums[-1]))
        return e

    def stands_out(self, s: ScreenedColumn) -> bool:
        """Whether a drift may be found at the last row."""
        level = self._level(s, s.y.size - self.among, self.among)
        return int(np.count_nonzero(s.y[-self.among :] > level)) >= self.enough

    def calm(self, s: ScreenedColumn, ahead: int) -> float:
        """A level below which none of the next `ahead` rows counts as high."""
        return self._level(s, s.y.size, ahead + self.among - 1)

    def _level(self, s: ScreenedColumn, row: int, ahead: int) -> float:
        y = s.y[self.past.before(max(row, 0), _LOOK_AHEAD)]
        if y.size + ahead <= LEAST_ROWS:
            return math.inf
        scale = least_scale(y, s.unit, ahead)
        if y.size > SCALE_LAG_ROWS + NOISE_ROWS:
            scale = min(scale, least_scale(y[:-SCALE_LAG_ROWS], s.unit, ahead))
        elif y.size > SCALE_LAG_ROWS:
            scale = 1e-3 * s.unit
        return least_center(y, BASELINE_ROWS, ahead) + max(RULE.sigmas * scale, RULE.floor * s.unit)

    def copy(self) -> Self:
        """One that can go on apart from this one."""
        twin = copy(self)
        twin.past = self.past.copy()
        return twin

    def drop(self, rows: int) -> None:
        """`rows` rows were taken off the signal's beginning."""
        self.past.drop(rows)
        self.cursor -= rows
        self.sum = Sum(self.sum.row - rows, self.sum.since - rows, self.sum.value)


def _terms(y: Values, unit: float, hop: int) -> Terms:
    center = trailing_quantiles(y, BASELINE_ROWS, hop, (0.5,), LEAST_ROWS)[0]
    scale = screen(y, RULE, unit, hop=hop).scale
    lag = -(-SCALE_LAG_ROWS // hop)
    earlier = np.concatenate((np.full(min(lag, scale.size), np.inf), scale[:-lag]))[: scale.size]
    scale = np.repeat(np.fmin(scale, np.where(np.isnan(earlier), np.inf, earlier)), hop)[: y.size]
    excess = y - np.repeat(center, hop)[: y.size]
    scale = np.where(np.isfinite(excess), scale, np.inf)
    terms = np.minimum(np.nan_to_num(excess) / scale, CAP) - SLACK
    return terms, excess, scale


def _alarm(s: ScreenedColumn, terms: Terms, begun: Sum, first: int) -> tuple[int, int] | None:
    """(row after the sum last left zero, row of the alarm) of the first alarm from `begun` on. `terms` are those of
    the rows from `first` on."""
    each, excess, sigma = terms
    for lo in range(begun.row - first, each.size, _CHUNK - _OVERLAP):
        sums = _sums(each[lo : lo + _CHUNK], begun.value)
        for row in np.flatnonzero(sums > ALARM):
            at = lo + int(row)
            rise = float(np.median(excess[max(at - 4, 0) : at + 1]))
            if rise > max(RULE.sigmas * float(sigma[at]), RULE.floor * s.unit):
                zero = np.flatnonzero(sums[:row] <= 0)
                return first + lo + int(zero[-1]) + 1 if zero.size else begun.since, first + at
        if lo + _CHUNK >= each.size:
            break
        begun = Sum(first + lo + _CHUNK - _OVERLAP, first + lo + _CHUNK - _OVERLAP, 0.0)
    return None


def _sums(terms: Values, value: float = 0.0) -> Values:
    """Page's sum after each row, from `value` on."""
    path = terms.cumsum() + value
    return path - np.minimum(np.minimum.accumulate(path), 0.0)


def _stream() -> ColumnStream:
    return ColumnStream("loss_cusum", "loss", LiveDriftSearch, lambda s, e: (_kind(e), True))


DETECTOR = Detector("loss_cusum", LOSS_KINDS, _find, _stream)
