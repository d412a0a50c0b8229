"""Sudden excursions above a column's own past, one after another, none of them in the next one's baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import DIVERGED, LINGERING, UNRESOLVED, Finding, Telemetry, onset_interval
from postmortem.detectors._rolling import TAIL_BLOCK
from postmortem.detectors._screen import (
    LEAST_ROWS,
    NOISE_ROWS,
    REACH,
    Rule,
    ScreenedColumn,
    calm_level,
    screen,
    signal,
)
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

_COARSE_ROWS = REACH + 7 * TAIL_BLOCK
"""Rows before a row that its verdict by `screen` needs, the noise of the earliest of them included."""

_CREEP_SIGMAS, _CREEP_ROWS = 4.0, 16
_EARLY_LOG = float(np.log(5))


@dataclass(frozen=True)
class Excursion:
    """Rows of the signal: onset, the row that gave it away, the row from which it is followed, and what became of it
    from the onset on; `center` and `scale` are in units of y."""

    onset: int
    row: int
    followed: int
    center: float
    scale: float
    settled: Settled

    def moved(self, rows: int) -> Excursion:
        """The same, where `rows` rows were taken off the signal's beginning."""
        return replace(self, onset=self.onset - rows, row=self.row - rows, followed=self.followed - rows)


def followed(s: ScreenedColumn, onset: int, row: int, start: int, center: float, scale: float) -> Excursion:
    """The excursion that began at `onset`, was noticed at `row`, and is followed from row `start` on."""
    seen = settle(s.y[start:], center, scale, s.unit)
    if (lead := start - onset) > 0:
        whole = s.y[onset : start + seen.peak + 1]
        seen = replace(
            seen,
            peak=int(np.argmax(whole)),
            recovery=None if seen.recovery is None else seen.recovery + lead,
            abrupt=bool(whole[:3].max() - center >= 0.5 * (whole.max() - center)),
            end=seen.end + lead,
            shape_rows=seen.shape_rows + lead,
            level_rows=seen.level_rows + lead,
        )
    return Excursion(onset, row, start, center, scale, seen)


class Past:
    """Which rows may serve as a baseline: excursions are taken out, and nothing before a lasting change counts."""

    def __init__(self, rows: int) -> None:
        self._clean = np.ones(rows, dtype=bool)
        self.since = 0
        self.known_scale = 0.0

    def before(self, row: int, rows: int) -> NDArray[np.intp]:
        """Up to `rows` clean rows before `row`, oldest first."""
        lo = max(self.since, row - 4 * rows)
        return np.flatnonzero(self._clean[lo:row])[-rows:] + lo

    def take_out(self, e: Excursion) -> None:
        """Keep an excursion out of the baselines to come; after a lasting one the past begins where it settled."""
        end = e.onset + e.settled.end
        self._clean[e.onset : end] = False
        if e.settled.outcome != "recovered" and e.settled.recovery is not None and e.settled.level is not None:
            left = e.settled.level - e.center
            if left > 2.5 * e.scale:
                self.since, self.known_scale = end, e.scale

    def copy(self) -> Past:
        """One that can be changed apart from this one."""
        twin = copy(self)
        twin._clean = self._clean.copy()
        return twin

    def drop(self, rows: int) -> None:
        """`rows` rows were taken off the signal's beginning, and as many may come at its end."""
        self._clean[:-rows] = self._clean[rows:]
        self._clean[-rows:] = True
        self.since = max(self.since - rows, 0)


class ExcursionSearch:
    """The search for sudden excursions, one after another: what of a signal has been looked at, and what follows."""

    hop = 1

    def __init__(self, rule: Rule, rows: int) -> None:
        """For a signal of up to `rows` rows."""
        self.rule, self.past = rule, Past(rows)
        self.cursor = self.zone = self.until = 0
        self.over, self._first_rows = False, True

    def next(self, s: ScreenedColumn, candidate: Callable[[int], int | None]) -> Excursion | None:
        """The next excursion. `candidate(row)` is the first row from `row` on that stands out of the rows before it,
        excursions included (`screen`). After one of these, and after an excursion, rows are held against clean ones.
        """
        if self.over:
            return None
        if self._first_rows:
            row = _early(s)
            self._first_rows = row is None and s.y.size <= LEAST_ROWS
            if row is not None:
                return self._follow(s, row)
        while True:
            if self.cursor < self.until:
                row = self._exact(s)
                if row is not None:
                    return self._follow(s, row)
                if self.until > s.y.size:
                    return None
                self.cursor = self.until
            found = candidate(self.cursor)
            if found is None:
                return None
            self.cursor = self.zone = max(found // self.hop * self.hop, self.cursor)
            self.until = found + _LOOK_AHEAD

    def take(self, e: Excursion) -> None:
        """Go on behind an excursion. A signal that diverged, or is unresolved at its end, has no further ones."""
        self.over = e.settled.outcome in (DIVERGED, UNRESOLVED)
        self.past.take_out(e)
        self.cursor = self.zone = e.onset + e.settled.end
        self.until = self.cursor + _LOOK_AHEAD

    def copy(self) -> Self:
        """One that can go on apart from this one."""
        twin = copy(self)
        twin.past = self.past.copy()
        return twin

    def drop(self, rows: int) -> None:
        """`rows` rows were taken off the signal's beginning."""
        self.past.drop(rows)
        self.cursor, self.zone, self.until = self.cursor - rows, self.zone - rows, self.until - rows

    def _exact(self, s: ScreenedColumn) -> int | None:
        before = self.past.before(self.zone, REACH)
        y = np.concatenate((s.y[before], s.y[self.zone : self.until]))
        least = self.past.known_scale if before.size < 4 * LEAST_ROWS else 0.0
        above = screen(y, self.rule, s.unit, hop=1, least_scale=least).rows_above(y)
        above = above[above >= before.size]
        return int(above[0]) - before.size + self.zone if above.size else None

    def _follow(self, s: ScreenedColumn, row: int) -> Excursion:
        before = self.past.before(row, REACH)
        y = np.concatenate((s.y[before], s.y[row : row + 1]))
        if before.size >= LEAST_ROWS:
            least = self.past.known_scale if before.size < 4 * LEAST_ROWS else 0.0
            fine = screen(y, self.rule, s.unit, hop=1, least_scale=least)
            center, scale = float(fine.center[-1]), float(fine.scale[-1])
        else:
            center, scale = float(np.median(y[:-1])), max(float(np.ptp(y[:-1])) / 2, 1e-3 * s.unit)
        onset = row
        creep = center + max(_CREEP_SIGMAS * scale, self.rule.floor * s.unit / 2)
        allowed = set(before[-_CREEP_ROWS:].tolist())
        while onset - 1 in allowed and s.y[onset - 1] > creep:
            onset -= 1
        return followed(s, onset, row, onset, center, scale)


class LiveSearch(ExcursionSearch):
    """The same search over the latest rows of a signal that grows."""

    enough, among, hangs = 1, 1, False

    def resume(self, s: ScreenedColumn, cleared: int) -> Excursion | None:
        """The next excursion. Rows before `cleared` are known not to stand out."""

        def candidate(row: int) -> int | None:
            row = max(row, cleared)
            if row >= s.y.size:
                return None
            lo = max(row - _COARSE_ROWS, 0) // TAIL_BLOCK * TAIL_BLOCK
            above = screen(s.y[lo:], self.rule, s.unit, hop=1).rows_above(s.y[lo:]) + lo
            i = int(np.searchsorted(above, row))
            self.hangs = i < above.size and int(above[i]) == s.y.size - 1
            return int(above[i]) if i < above.size else None

        self.hangs = False
        if self.until <= cleared:
            self.cursor = max(self.cursor, self.until)
        return self.next(s, candidate)

    def stands_out(self, s: ScreenedColumn) -> bool:
        """Whether the last row may be one that is found."""
        return self._first_rows or float(s.y[-1]) > self._level(s, s.y.size - 1, 1)

    def calm(self, s: ScreenedColumn, ahead: int) -> float:
        """A level below which none of the next `ahead` rows needs a look."""
        return -math.inf if self._first_rows else self._level(s, s.y.size, ahead)

    def _level(self, s: ScreenedColumn, row: int, ahead: int) -> float:
        return calm_level(s.y[self.past.before(row, NOISE_ROWS + 4)], self.rule, s.unit, ahead)


def excursions(s: ScreenedColumn, rule: Rule) -> Iterator[Excursion]:
    """Every sudden excursion of the signal, in order."""
    coarse = screen(s.y, rule, s.unit)
    rows = coarse.rows_above(s.y)

    def candidate(row: int) -> int | None:
        i = int(np.searchsorted(rows, row))
        return int(rows[i]) if i < rows.size else None

    search = ExcursionSearch(rule, s.y.size)
    search.hop = coarse.hop
    while (e := search.next(s, candidate)) is not None:
        yield e
        search.take(e)


def _early(s: ScreenedColumn) -> int | None:
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


def finding(s: ScreenedColumn, e: Excursion, detector: str, kind: str, opens: bool = True) -> Finding:
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
        yield finding(s, e, detector, kind, opens=opens_alone(s, e, rule))


def opens_alone(s: ScreenedColumn, e: Excursion, rule: Rule) -> bool:
    """Whether an excursion is high enough to open an incident by itself."""
    return float(s.y[e.onset + e.settled.peak]) - e.center >= rule.opening * s.unit


def shape_kind(e: Excursion, spike: str, shift: str, drift: str) -> str:
    """Came down: a spike. Stayed up: a shift where it got there at once, a drift where it took its time."""
    if e.settled.decays:
        return spike
    if e.settled.outcome == LINGERING or e.settled.outcome == DIVERGED or e.settled.end > 3:
        return shift if e.settled.abrupt else drift
    return spike
