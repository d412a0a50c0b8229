"""Sudden excursions above a column's own past, one after another, none of them in the next one's baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import DIVERGED, LINGERING, UNRESOLVED, Finding, Telemetry, onset_interval
from postmortem.detectors._screen import LEAST_ROWS, REACH, Rule, Signal, screen, signal
from postmortem.detectors._settle import Settled, settle
from postmortem.incident import Kind

_LOOK_AHEAD = REACH
"""Rows after an excursion in whose baseline it would still stand, and which are therefore screened again without it."""

LOSS_KINDS = (
    Kind("loss_spike", "loss spike", measures="loss"),
    Kind("level_shift", "level shift", measures="loss"),
    Kind("divergence", "divergence", measures="loss"),
)
"""What an excursion of the loss may turn out to be, whichever rule saw it."""

_CREEP_SIGMAS, _CREEP_ROWS = 4.0, 16
_EARLY_LOG = float(np.log(5))


@dataclass(frozen=True)
class Excursion:
    """Rows of the signal: onset and what became of it; `center`, `scale`, `limit` are in units of y."""

    onset: int
    center: float
    scale: float
    settled: Settled


class Past:
    """Which rows may serve as a baseline: excursions are taken out, and nothing before a lasting change counts."""

    def __init__(self, s: Signal) -> None:
        self._s = s
        self._clean = np.ones(s.y.size, dtype=bool)
        self._since = 0
        self.known_scale = 0.0

    def before(self, row: int, rows: int) -> NDArray[np.intp]:
        """Up to `rows` clean rows before `row`, oldest first."""
        lo = max(self._since, row - 4 * rows)
        return np.flatnonzero(self._clean[lo:row])[-rows:] + lo

    def take_out(self, e: Excursion) -> None:
        """Keep an excursion out of the baselines to come; after a lasting one the past begins where it settled."""
        end = e.onset + e.settled.end
        self._clean[e.onset : end] = False
        if e.settled.outcome != "recovered" and e.settled.recovery is not None and e.settled.level is not None:
            left = e.settled.level - e.center
            if left > 2.5 * e.scale:
                self._since, self.known_scale = end, e.scale


def excursions(s: Signal, rule: Rule) -> Iterator[Excursion]:
    """Every sudden excursion of the signal, in order. A signal that diverged, or is unresolved at its end, has no
    further ones."""
    past, cursor, n = Past(s), 0, s.y.size
    early = _early(s)
    coarse = screen(s.y, rule, s.unit)
    candidates = coarse.rows_above(s.y)
    exact_until = 0
    while True:
        row = early
        early = None
        if row is None:
            row = _exact(s, rule, past, cursor, exact_until) if cursor < exact_until else None
        while row is None:
            cursor = max(cursor, exact_until)
            i = int(np.searchsorted(candidates, cursor))
            if i == candidates.size:
                return
            exact_until = min(int(candidates[i]) + _LOOK_AHEAD, n)
            row = _exact(s, rule, past, int(candidates[i]) // coarse.hop * coarse.hop, exact_until, floor=cursor)
        e = _follow(s, rule, past, row)
        yield e
        if e.settled.outcome in (DIVERGED, UNRESOLVED):
            return
        past.take_out(e)
        cursor = e.onset + e.settled.end
        exact_until = min(cursor + _LOOK_AHEAD, n)


def _exact(s: Signal, rule: Rule, past: Past, first: int, until: int, floor: int = 0) -> int | None:
    first = max(first, floor)
    before = past.before(first, REACH)
    y = np.concatenate((s.y[before], s.y[first:until]))
    least = past.known_scale if before.size < 4 * LEAST_ROWS else 0.0
    above = screen(y, rule, s.unit, hop=1, least_scale=least).rows_above(y)
    above = above[above >= before.size]
    return int(above[0]) - before.size + first if above.size else None


def _follow(s: Signal, rule: Rule, past: Past, row: int) -> Excursion:
    before = past.before(row, REACH)
    y = np.concatenate((s.y[before], s.y[row : row + 1]))
    if before.size >= LEAST_ROWS:
        fine = screen(y, rule, s.unit, hop=1, least_scale=past.known_scale if before.size < 4 * LEAST_ROWS else 0.0)
        center, scale = float(fine.center[-1]), float(fine.scale[-1])
    else:
        center, scale = float(np.median(y[:-1])), max(float(np.ptp(y[:-1])) / 2, 1e-3 * s.unit)
    onset = row
    creep = center + max(_CREEP_SIGMAS * scale, rule.floor * s.unit / 2)
    allowed = set(before[-_CREEP_ROWS:].tolist())
    while onset - 1 in allowed and s.y[onset - 1] > creep:
        onset -= 1
    return Excursion(onset, center, scale, settle(s.y[onset:], center, scale, s.unit))


def _early(s: Signal) -> int | None:
    """A blow-up before there is a past to measure noise in: a row at five times the highest so far and three times
    beyond their spread. Only on the log scale, where "five times" means something."""
    if not s.log:
        return None
    y = s.y[: LEAST_ROWS + 1]
    top = np.maximum.accumulate(y)
    spread = top - np.minimum.accumulate(y)
    over = y[1:] - top[:-1] > np.maximum(_EARLY_LOG, 3 * spread[:-1])
    over[:1] = False
    rows = np.flatnonzero(over)
    return int(rows[0]) + 1 if rows.size else None


def finding(s: Signal, e: Excursion, detector: str, kind: str, opens: bool = True) -> Finding:
    """An excursion as a finding, in the column's own units and steps."""
    peak = e.onset + e.settled.peak
    recovery = None if e.settled.recovery is None else int(s.step[e.onset + e.settled.recovery])
    height = float(s.y[peak]) - e.center
    baseline = s.back(e.center)
    return Finding(
        detector=detector,
        kind=kind,
        column=s.name,
        onset_step=int(s.step[e.onset]),
        onset_interval=onset_interval(s.step, e.onset),
        peak_step=int(s.step[peak]),
        recovery_step=recovery if e.settled.outcome != UNRESOLVED else None,
        peak=float(s.raw[peak]),
        baseline=baseline,
        scale=e.scale * baseline if s.log else e.scale * s.size,
        score=height / e.scale,
        settled=None if e.settled.level is None else s.back(e.settled.level),
        outcome=e.settled.outcome,
        figures={"height": height / s.unit, "ratio": float(s.raw[peak]) / baseline if baseline else float("nan")},
        opens=opens,
    )


def spikes(t: Telemetry, column: str, rule: Rule, detector: str, kind: str) -> Iterator[Finding]:
    """The excursions of one column as findings; from `rule.opening` up they open an incident by themselves."""
    series = t.series(column)
    s = signal(series) if series is not None else None
    if s is None:
        return
    for e in excursions(s, rule):
        height = float(s.y[e.onset + e.settled.peak]) - e.center
        yield finding(s, e, detector, kind, opens=height >= rule.opening * s.unit)


def shape_kind(e: Excursion, spike: str, shift: str, drift: str) -> str:
    """Came down: a spike. Stayed up: a shift where it got there at once, a drift where it took its time."""
    if e.settled.decays:
        return spike
    if e.settled.outcome == LINGERING or e.settled.outcome == DIVERGED or e.settled.end > 3:
        return shift if e.settled.abrupt else drift
    return spike
