"""Sudden excursions above a column's own past, one after another; none of them is in the next one's baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._course import HORIZON_ROWS, Course, trace_course
from postmortem.detectors._model import DIVERGED, LINGERING, UNRESOLVED, Finding, onset_interval
from postmortem.detectors._rolling import TAIL_BLOCK
from postmortem.detectors._screen import (
    CENTER_ROWS,
    MEANT_DIGITS,
    MIN_ROWS,
    MIN_SCALE,
    NOISE_ROWS,
    REACH_ROWS,
    Rule,
    ScreenedColumn,
    safe_level,
    screen,
)
from postmortem.detectors._tail import NO_TAIL, Tail, tail_of
from postmortem.incident import Kind
from postmortem.stats import median, robust_sigma

_LOOK_AHEAD_ROWS = REACH_ROWS
"""Rows after an excursion whose baseline would still contain it; they are screened again without it."""

LOSS_SPIKE = Kind("loss_spike", "loss spike", measures="loss")
LEVEL_SHIFT = Kind("level_shift", "level shift", measures="loss")
DIVERGENCE = Kind("divergence", "divergence", measures="loss")
LOSS_KINDS = (LOSS_SPIKE, LEVEL_SHIFT, DIVERGENCE)
"""What an excursion of the loss may turn out to be, whichever rule found it."""

_COARSE_ROWS = REACH_ROWS + 7 * TAIL_BLOCK
"""Rows before a row that its verdict by `screen` needs, with the noise of the earliest of them."""

_CREEP_SIGMAS, _CREEP_ROWS = 4.0, 16
"""The onset is dated back over up to 16 rows that were above 4 sigmas already: noise seldom goes that far, and a rise
takes some rows to pass the limit."""

_EARLY_LOG = float(np.log(5))
"""Log units that a row must rise above the highest row so far where there is no past yet to measure noise in."""

_EARLY_SPREADS = 3
"""And times the spread of those rows: the first rows of a run may fall steeply."""

_SHIFT_SIGMAS = 2.5
"""Sigmas that a level must stay above the baseline for the rows before it to be no baseline any more."""

_SMOOTHED_SIGMAS, _SMOOTHED_ROWS = 7.0, 512
"""What a row of a smoothed column must be above its baseline, and rows before it whose wandering is its noise."""

_TAIL_TIMES = 10.0
"""Under Student's t with 2.5 degrees of freedom, a row passes ten times the largest of n rows before once in 600 n."""

_SLOW_ROWS = 20
"""A rise that takes as many rows to its peak, and begins with less than half of it, is a trend that turned."""

_BLIP_ROWS = 3
"""An excursion of up to three rows is a spike, wherever it ended."""


@dataclass(frozen=True)
class Excursion:
    """One excursion, in rows of the signal: its onset, the row that gave it away, the row from which it is followed,
    and its course, counted from the onset, over up to `horizon` rows. `center` and `scale` (robust sigma) are in units
    of y."""

    onset: int
    row: int
    follow_from: int
    center: float
    scale: float
    course: Course
    horizon: int = HORIZON_ROWS
    tail: Tail = NO_TAIL  # of the noise of single rows before it

    def height(self, s: ScreenedColumn) -> float:
        """The height of its peak, in units of y."""
        return float(s.y[self.onset + self.course.peak]) - self.center

    def followed_in(self, s: ScreenedColumn) -> Excursion:
        """The same excursion with its course as the rows of `s` show it."""
        e = follow_excursion(s, self.onset, self.row, self.follow_from, self.center, self.scale, self.horizon)
        return replace(self, course=e.course)

    def shifted(self, rows: int) -> Excursion:
        """The same excursion after the first `rows` rows of the signal were dropped."""
        return replace(self, onset=self.onset - rows, row=self.row - rows, follow_from=self.follow_from - rows)


def follow_excursion(
    s: ScreenedColumn, onset: int, row: int, follow_from: int, center: float, scale: float, horizon: int = HORIZON_ROWS
) -> Excursion:
    """The excursion that began at row `onset`, was noticed at `row`, and is followed from row `follow_from` on."""
    course = trace_course(s.y[follow_from:], center, scale, s.unit, horizon)
    if (lead := follow_from - onset) > 0:
        rows = s.y[onset : follow_from + course.peak + 1]
        course = replace(
            course,
            peak=int(np.argmax(rows)),
            recovery=None if course.recovery is None else course.recovery + lead,
            abrupt=bool(rows[:3].max() - center >= 0.5 * (rows.max() - center)),
            end=course.end + lead,
            shape_rows=course.shape_rows + lead,
            level_rows=course.level_rows + lead,
        )
    return Excursion(onset, row, follow_from, center, scale, course, horizon)


class BaselineRows:
    """Which rows may serve as a baseline: no excursion does, and nothing before a lasting change."""

    def __init__(self, rows: int) -> None:
        self._clean = np.ones(rows, dtype=bool)
        self.since = 0
        """The first row after the last lasting change."""
        self.known_scale = 0.0
        """The sigma before that change, in units of y; 0 where there was none."""

    def clean_before(self, row: int, rows: int) -> NDArray[np.intp]:
        """Up to `rows` clean rows before `row`, oldest first; none is more than 4 times `rows` away."""
        lo = max(self.since, row - 4 * rows)
        return np.flatnonzero(self._clean[lo:row])[-rows:] + lo

    def exclude(self, e: Excursion) -> None:
        """Keep an excursion out of later baselines; after a lasting one the baseline begins where it settled."""
        end = e.onset + e.course.end
        self._clean[e.onset : end] = False
        if e.course.outcome == LINGERING and e.course.level is not None and not e.course.returned:
            shift = e.course.level - e.center
            if shift > _SHIFT_SIGMAS * e.scale:
                self.since, self.known_scale = end, e.scale

    def copy(self) -> BaselineRows:
        """An independent copy."""
        twin = copy(self)
        twin._clean = self._clean.copy()  # noqa: SLF001 - a copy of this class itself
        return twin

    def drop_first(self, rows: int) -> None:
        """The first `rows` rows of the signal were dropped, and as many may come at its end."""
        self._clean[:-rows] = self._clean[rows:]
        self._clean[-rows:] = True
        self.since = max(self.since - rows, 0)


class BaselineSearch:
    """What every search along a signal keeps: the baseline, and the row from which it goes on."""

    def __init__(self, rows: int) -> None:
        """For a signal of up to `rows` rows."""
        self.baseline = BaselineRows(rows)
        self.cursor = 0

    def copy(self) -> Self:
        """An independent copy."""
        twin = copy(self)
        twin.baseline = self.baseline.copy()
        return twin

    def drop_first(self, rows: int) -> None:
        """The first `rows` rows of the signal were dropped."""
        self.baseline.drop_first(rows)
        self.cursor -= rows


class ExcursionSearch(BaselineSearch):
    """The search for sudden excursions, one after another, from `cursor` on.

    Rows from `exact_from` to `exact_until` follow an excursion or a first candidate: they are compared with clean rows
    only. `finished`: nothing follows."""

    hop = 1

    def __init__(self, rule: Rule, rows: int) -> None:
        """For a signal of up to `rows` rows."""
        super().__init__(rows)
        self.rule = rule
        self.exact_from = self.exact_until = 0
        self.finished, self._first_rows = False, True

    def next(self, s: ScreenedColumn, candidate: Callable[[int], int | None]) -> Excursion | None:
        """The next excursion. `candidate(row)` is the first row from `row` on that stands out from the rows before it,
        excursions included (`screen`). After a candidate, and after an excursion, rows are compared with clean ones.
        """
        if self.finished:
            return None
        if self._first_rows:
            row = _early_jump(s)
            self._first_rows = row is None and s.y.size <= MIN_ROWS
            if row is not None:
                return self._excursion_at(s, row)
        while True:
            if self.cursor < self.exact_until:
                row = self._first_exact_row(s)
                if row is not None:
                    return self._excursion_at(s, row)
                if self.exact_until > s.y.size:
                    return None
                self.cursor = self.exact_until
            row = candidate(self.cursor)
            if row is None:
                return None
            self.cursor = self.exact_from = max(row // self.hop * self.hop, self.cursor)
            self.exact_until = row + _LOOK_AHEAD_ROWS

    def continue_after(self, e: Excursion) -> None:
        """Continue after an excursion. A signal that diverged, or is unresolved at its end, has no further ones."""
        self.finished = e.course.outcome in (DIVERGED, UNRESOLVED)
        self.baseline.exclude(e)
        self.cursor = self.exact_from = e.onset + e.course.end
        self.exact_until = self.cursor + _LOOK_AHEAD_ROWS

    def drop_first(self, rows: int) -> None:
        """The first `rows` rows of the signal were dropped."""
        super().drop_first(rows)
        self.exact_from, self.exact_until = self.exact_from - rows, self.exact_until - rows

    def _first_exact_row(self, s: ScreenedColumn) -> int | None:
        before = self.baseline.clean_before(self.exact_from, REACH_ROWS)
        y = np.concatenate((s.y[before], s.y[self.exact_from : self.exact_until]))
        above = screen(y, self.rule, s.unit, hop=1, min_scale=self._min_scale(before)).rows_above(y)
        above = above[above >= before.size]
        return int(above[0]) - before.size + self.exact_from if above.size else None

    def _min_scale(self, before: NDArray[np.intp]) -> float:
        """The sigma from before a lasting change, while there are few rows after it."""
        return self.baseline.known_scale if before.size < 4 * MIN_ROWS else 0.0

    def _excursion_at(self, s: ScreenedColumn, row: int) -> Excursion:
        """The excursion that `row` gave away, dated back over the rows before it that are high already."""
        before = self.baseline.clean_before(row, REACH_ROWS)
        y = np.concatenate((s.y[before], s.y[row : row + 1]))
        if before.size >= MIN_ROWS:
            exact = screen(y, self.rule, s.unit, hop=1, min_scale=self._min_scale(before))
            center, scale = float(exact.center[-1]), float(exact.scale[-1])
        else:
            center, scale = float(median(y[:-1])), max(float(np.ptp(y[:-1])) / 2, MIN_SCALE * s.unit)
        onset = row
        creep = center + max(_CREEP_SIGMAS * scale, self.rule.floor * s.unit / 2)
        allowed = set(before[-_CREEP_ROWS:].tolist())
        while onset - 1 in allowed and s.y[onset - 1] > creep:
            onset -= 1
        known = s.y[before[before >= min(CENTER_ROWS, row // 2)]]  # the first rows may be anything
        e = follow_excursion(s, onset, row, onset, center, scale, self.rule.horizon)
        return replace(e, tail=tail_of(known))


class LiveExcursionSearch(ExcursionSearch):
    """The same search over the latest rows of a signal that grows."""

    alert_rows, alert_window, last_row_undecided = 1, 1, False

    def resume(self, s: ScreenedColumn, cleared: int) -> Excursion | None:
        """The next excursion. Rows before `cleared` are known not to stand out."""

        def candidate(row: int) -> int | None:
            row = max(row, cleared)
            if row >= s.y.size:
                return None
            lo = max(row - _COARSE_ROWS, 0) // TAIL_BLOCK * TAIL_BLOCK
            above = screen(s.y[lo:], self.rule, s.unit, hop=1).rows_above(s.y[lo:]) + lo
            i = int(np.searchsorted(above, row))
            self.last_row_undecided = i < above.size and int(above[i]) == s.y.size - 1
            return int(above[i]) if i < above.size else None

        self.last_row_undecided = False
        if self.exact_until <= cleared:
            self.cursor = max(self.cursor, self.exact_until)
        return self.next(s, candidate)

    def may_find_last_row(self, s: ScreenedColumn) -> bool:
        """Whether the last row may be one that is found."""
        return self._first_rows or float(s.y[-1]) > self._safe_level(s, s.y.size - 1, 1)

    def safe_level(self, s: ScreenedColumn, ahead: int) -> float:
        """A level of y below which none of the next `ahead` rows is found."""
        return -math.inf if self._first_rows else self._safe_level(s, s.y.size, ahead)

    def _safe_level(self, s: ScreenedColumn, row: int, ahead: int) -> float:
        return safe_level(s.y[self.baseline.clean_before(row, NOISE_ROWS + 4)], self.rule, s.unit, ahead)


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
        search.continue_after(e)


def _early_jump(s: ScreenedColumn) -> int | None:
    """The row of a blow-up before there is a past to measure noise in: five times as high as the highest row so far,
    and three times beyond their spread. Only on the log scale, where "five times" means something."""
    if not s.log:
        return None
    y = s.y[: MIN_ROWS + 1]
    top = np.maximum.accumulate(y)
    spread = top - np.minimum.accumulate(y)
    jumps = y[1:] - top[:-1] > np.maximum(_EARLY_LOG, _EARLY_SPREADS * spread[:-1])
    jumps[:1] = False
    rows = np.flatnonzero(jumps)
    return int(rows[0]) + 1 if rows.size else None


def excursion_finding(
    s: ScreenedColumn, e: Excursion, detector: str, kind: str, opens: bool = True, noise_runs: float = math.inf
) -> Finding:
    """An excursion as a finding: rows become steps, and y the column's own unit."""
    peak = e.onset + e.course.peak
    recovery = None if e.course.recovery is None else int(s.step[e.onset + e.course.recovery])
    height = e.height(s)
    baseline = s.to_raw(e.center)
    return Finding(
        detector=detector,
        kind=kind,
        column=s.name,
        onset_step=int(s.step[e.onset]),
        onset_interval=onset_interval(s.step, e.onset),
        peak_step=int(s.step[peak]),
        recovery_step=recovery if e.course.outcome != UNRESOLVED else None,
        peak=float(s.raw[peak]),
        baseline=baseline,
        scale=e.scale * baseline if s.log else e.scale * s.size,
        score=height / e.scale,
        settled=None if e.course.level is None else s.to_raw(e.course.level),
        outcome=e.course.outcome,
        figures={"height": height / s.unit, "ratio": float(s.raw[peak]) / baseline if baseline else float("nan")},
        opens=opens,
        noise_runs=noise_runs,
    )


def stands_out(s: ScreenedColumn, e: Excursion) -> bool:
    """Whether an excursion of the loss is more than what its log makes of noise.

    In a smoothed loss, neighbors depart together: they count as one row, which must stand out by itself. A loss near
    zero must depart for three rows or by ten times what it ever did before, and by more than the log's rounding: policy
    losses are signed averages with heavy tails, in which one row may be at 20 sigmas and two in a row hardly ever are.
    """
    center = s.to_raw(e.center)
    if s.smoothed and e.height(s) < _SMOOTHED_SIGMAS * max(e.scale, _slow_sigma(s.y[: e.onset])):
        return False
    if not s.near_zero:
        return True
    height = float(s.raw[e.onset + e.course.peak]) - center
    earlier = float(np.max(np.abs(s.raw[: e.onset] - center), initial=0.0))
    lasts = e.course.end >= _BLIP_ROWS
    return height >= MEANT_DIGITS * s.last_digit and (lasts or height >= _TAIL_TIMES * earlier)


def _slow_sigma(past: NDArray[np.float64]) -> float:
    """Robust sigma of the last rows before an excursion about their straight line."""
    past = past[-_SMOOTHED_ROWS:]
    if past.size < MIN_ROWS:
        return 0.0
    half = past.size // 2
    slope = float(median(past[-half:]) - median(past[:half])) / (past.size - half)
    return robust_sigma(past - slope * np.arange(past.size))


def opens_incident(s: ScreenedColumn, e: Excursion, rule: Rule) -> bool:
    """Whether an excursion opens an incident by itself: high enough, and no slow rise of a column that wanders."""
    slow = e.course.outcome == LINGERING or e.course.peak >= _SLOW_ROWS
    wandered = rule.wanders and slow and not e.course.abrupt
    return e.height(s) >= rule.opening * s.unit and not wandered


def noise_runs(s: ScreenedColumn, e: Excursion, rule: Rule) -> float:
    """In how many runs noise with a heavy tail makes once an excursion so brief, and so low; infinite where none does.
    In a column that wanders, it makes none of twice what opens an incident (a gradient norm at 30 times its level)."""
    sure = rule.wanders and e.height(s) >= 2 * rule.opening * s.unit
    may = e.course.end <= _BLIP_ROWS and e.height(s) < e.tail.height and not sure
    return e.tail.runs(e.height(s)) if may else math.inf


def shape_kind(e: Excursion, spike: str, shift: str, drift: str) -> str:
    """Its kind by its shape: `spike` where it came down, else `shift` where it rose at once, else `drift`."""
    if e.course.decays:
        return spike
    if e.course.outcome in (LINGERING, DIVERGED) or e.course.end > _BLIP_ROWS:
        return shift if e.course.abrupt else drift
    return spike
