"""Slow divergence and level shifts of the loss: Page's one-sided CUSUM, dated back to where the sum left zero.

The rise of each row over the median of its past, in robust sigmas less a slack, is summed and never falls below zero
(Page, Biometrika 41, 1954). Each term is capped, so that no single row raises the alarm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._excursion import LOSS_KINDS, Excursion, Past, finding, shape_kind
from postmortem.detectors._model import Detector, Finding, Telemetry
from postmortem.detectors._rolling import hop_for, trailing_quantiles
from postmortem.detectors._screen import REACH, Rule, Signal, screen, signal
from postmortem.detectors._settle import settle

Values = NDArray[np.float64]

SLACK, CAP, ALARM = 1.5, 8.0, 30.0
BASELINE_ROWS, SCALE_LAG_ROWS, LEAST_ROWS = 256, 128, 48
RULE = Rule(sigmas=4.0, floor=0.03, opening=0.03)
_CHUNK, _OVERLAP, _LOOK_AHEAD, _ABRUPT_ROWS = 65_536, 512, 512, 12


def _find(t: Telemetry) -> Iterator[Finding]:
    series = t.series("loss")
    s = signal(series) if series is not None else None
    if s is None:
        return
    for e in _drifts(s):
        yield finding(s, e, "loss_cusum", shape_kind(e, "loss_spike", "level_shift", "divergence"))


def _drifts(s: Signal) -> Iterator[Excursion]:
    past, cursor, n = Past(s), 0, s.y.size
    terms, excess, sigma = _terms(s, s.y, hop_for(n))
    while cursor < n:
        before = past.before(cursor, REACH) if cursor else np.empty(0, dtype=np.intp)
        until = min(cursor + _LOOK_AHEAD, n)
        if cursor:
            rows = np.concatenate((before, np.arange(cursor, until)))
            terms[cursor:until], excess[cursor:until], sigma[cursor:until] = (
                a[before.size :] for a in _terms(s, s.y[rows], 1)
            )
        found = _alarm(s, terms, excess, sigma, cursor)
        if found is None:
            return
        e = _follow(s, past, *found, excess)
        yield e
        past.take_out(e)
        cursor = max(e.onset + e.settled.end, found[1] + 1)


def _terms(s: Signal, y: Values, hop: int) -> tuple[Values, Values, Values]:
    """CUSUM terms, excess over the trailing median, and sigma of each row (-SLACK, nan, inf where there is no past)."""
    center = trailing_quantiles(y, BASELINE_ROWS, hop, (0.5,), LEAST_ROWS)[0]
    scale = screen(y, RULE, s.unit, hop=hop).scale
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


def _follow(s: Signal, past: Past, start: int, at: int, excess: Values) -> Excursion:
    """Date the onset (a jump by its first high row, a drift by the sum) and follow the loss from the alarm on."""
    onset = start
    half = 0.5 * float(np.median(excess[max(at - 4, start) : at + 1]))
    if at - start <= _ABRUPT_ROWS:
        onset = start + int(np.argmax(excess[start : at + 1] >= half))
    before = past.before(onset, REACH)
    fine = screen(np.concatenate((s.y[before], s.y[onset : onset + 1])), RULE, s.unit, hop=1)
    center, scale = float(fine.center[-1]), float(fine.scale[-1])
    seen = settle(s.y[at:], center, scale, s.unit)
    lead = at - onset
    whole = s.y[onset : at + seen.peak + 1]
    return Excursion(
        onset,
        center,
        scale,
        replace(
            seen,
            peak=int(np.argmax(whole)),
            recovery=None if seen.recovery is None else seen.recovery + lead,
            abrupt=bool(whole[:3].max() - center >= 0.5 * (whole.max() - center)),
            end=seen.end + lead,
        ),
    )


DETECTOR = Detector("loss_cusum", LOSS_KINDS, _find)
