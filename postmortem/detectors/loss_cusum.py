"""Slow divergence and level shifts of the loss: Page's one-sided CUSUM, dated back to where the sum left zero.

The rise of each row over the median of its past, in robust sigmas less a slack, is summed and never falls below zero
(Page, Biometrika 41, 1954). Each term is capped, so that no single row raises the alarm.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._excursion import Excursion, Past, finding, followed, shape_kind
from postmortem.detectors._model import Detector, Finding, Telemetry
from postmortem.detectors._rolling import hop_for, trailing_quantiles
from postmortem.detectors._screen import REACH, Rule, Signal, screen, signal

Values = NDArray[np.float64]

SLACK, CAP, ALARM = 1.5, 8.0, 30.0
BASELINE_ROWS, SCALE_LAG_ROWS, LEAST_ROWS = 256, 128, 48
RULE = Rule(sigmas=4.0, floor=0.03, opening=0.03)
_CHUNK, _OVERLAP, _LOOK_AHEAD, _ABRUPT_ROWS = 65_536, 512, 512, 12


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


class DriftSearch:
    """The search for drifts, one after another: where the sum begins anew, and which rows are no baseline."""

    def __init__(self, rows: int) -> None:
        """For a signal of up to `rows` rows."""
        self.past = Past(rows)
        self.cursor = 0

    def next(self, s: Signal, terms: Terms, first: int = 0) -> Excursion | None:
        """The next drift. `terms` are those of the rows from `first` on as if nothing had been found; after a find
        those of the rows that come next are measured against clean ones, in place."""
        start, until = max(self.cursor, first), min(self.cursor + _LOOK_AHEAD, s.y.size)
        if start >= s.y.size:
            return None
        if self.cursor and until > start:
            rows = np.concatenate((self.past.before(self.cursor, REACH), np.arange(self.cursor, until)))
            for known, clean in zip(terms, _terms(s.y[rows], s.unit, 1), strict=True):
                known[start - first : until - first] = clean[start - until :]
        found = _alarm(s, *terms, start - first)
        if found is None:
            return None
        zero, at = found
        return self._follow(s, zero + first, at + first, terms[1][zero : at + 1])

    def take(self, e: Excursion) -> None:
        """Go on behind a drift."""
        self.past.take_out(e)
        self.cursor = max(e.onset + e.settled.end, e.row + 1)

    def _follow(self, s: Signal, start: int, at: int, excess: Values) -> Excursion:
        """Date the onset (a jump by its first high row, a drift by the sum) and follow the loss from the alarm on."""
        onset = start
        half = 0.5 * float(np.median(excess[-5:]))
        if at - start <= _ABRUPT_ROWS:
            onset = start + int(np.argmax(excess >= half))
        before = self.past.before(onset, REACH)
        fine = screen(np.concatenate((s.y[before], s.y[onset : onset + 1])), RULE, s.unit, hop=1)
        return followed(s, onset, at, at, float(fine.center[-1]), float(fine.scale[-1]))


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


def _alarm(s: Signal, terms: Values, excess: Values, sigma: Values, first: int) -> tuple[int, int] | None:
    """(row after the sum last left zero, row of the alarm) of the first alarm from `first` on."""
    for lo in range(first, terms.size, _CHUNK - _OVERLAP):
        path = terms[lo : lo + _CHUNK].cumsum()
        sums = path - np.minimum(np.minimum.accumulate(path), 0.0)
        for row in np.flatnonzero(sums > ALARM):
            at = lo + int(row)
            rise = float(np.median(excess[max(at - 4, lo) : at + 1]))
            if rise > max(RULE.sigmas * float(sigma[at]), RULE.floor * s.unit):
                zero = np.flatnonzero(sums[:row] <= 0)
                return lo + (int(zero[-1]) + 1 if zero.size else 0), at
        if lo + _CHUNK >= terms.size:
            break
    return None


DETECTOR = Detector("loss_cusum", ("loss_spike", "level_shift", "divergence"), _find)
