"""The live face of the detectors of excursions: one column, its latest rows, and what is not settled in them.

A row is compared with two numbers, and that is all, while it is below a level under which none of the next few rows can
be found (`calm`). Above it the detector's own search goes on over the rows that are kept: the same functions as over a
whole run. Excursions that the rows to come may change are kept open; where one comes out otherwise, what was found
after it is looked for anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._excursion import Excursion, LiveSearch, Past, followed, opens_alone
from postmortem.detectors._model import Alarm, Row, State, Stream, number
from postmortem.detectors._screen import NOISE_ROWS, Rule, ScreenedColumn
from postmortem.detectors._settle import BAND_SIGMAS, HORIZON_ROWS

Values = NDArray[np.float64]

_CAPACITY, _KEPT = 8_192, 6_656
"""Rows that fit, and rows that are left when older ones make room: an open excursion is up to HORIZON_ROWS and three
SETTLE_ROWS old, the zone before it REACH, and a baseline may lie 4 REACH before that. Both are multiples of 32, so that
blocks of rows begin where they begin in the whole run."""

_AHEAD = 7
"""Rows for which one level holds. It falls with their number, and a look costs as much as some of them."""

_SOON, _ANEW, _POSTPONED = 4, 25, 4
"""Rows from the first that may be a return until it is one; between two looks at an excursion that goes on; and until a
row is looked at that stands lower than one that was looked at in vain."""


class Search(Protocol):
    """A search of a detector, over the latest rows of a signal."""

    past: Past
    cursor: int
    over: bool
    hangs: bool
    """Whether more than an excursion hangs on the last row, whose noise the row after it still moves."""
    enough: int
    among: int

    def resume(self, s: ScreenedColumn, cleared: int) -> Excursion | None: ...
    def take(self, e: Excursion) -> None: ...
    def stands_out(self, s: ScreenedColumn) -> bool: ...
    def calm(self, s: ScreenedColumn, ahead: int) -> float: ...
    def copy(self) -> Self: ...
    def drop(self, rows: int) -> None: ...


@dataclass
class Open:
    """An excursion as it is settled so far, and the search as it stood when it was found."""

    e: Excursion
    found: Search
    final: bool = False

    def is_sure(self, rows: int, one_kind: bool) -> bool:
        """Whether `rows` rows of the signal decide that it is one, and its kind where there is more than one."""
        return rows > self.e.row + 1 if one_kind else rows - self.e.onset >= self.e.settled.shape_rows


class Tracker:
    """One search on one scale: the excursions that are open, oldest first."""

    def __init__(self, search: Search, log: bool) -> None:
        self.log = log
        self.open: list[Open] = []
        self._search = search
        self._redo: Search | None = None
        self._cleared = 0
        self._settle_at = self._return_at = self._wait_until = self._vain_until = 0
        self._high = self._in_vain = -math.inf

    def look(self, s: ScreenedColumn, alert: bool, end: bool) -> None:
        """Take in the rows that came; on `alert` the last of them did not lie within what `plan` said."""
        n, last = s.y.size, float(s.y[-1])
        if end or self._redo is not None or n >= self._settle_at > 0 or n >= self._return_at > 0:
            self._advance(s)
        elif self._following(n):
            if self.open and self._return_at == 0 and last <= self._band():
                self._return_at = n + _SOON
        elif 0 < self._wait_until <= n:
            self._advance(s)
        elif alert and (self._search.among > 1 or last > self._high) and self._search.stands_out(s):
            if n < self._vain_until and last <= self._in_vain:
                self._wait_until = self._vain_until
                return
            self._advance(s)
            self._vain_until, self._in_vain = n + _POSTPONED, last
        elif self._wait_until == 0:
            self._cleared = n

    def level(self, s: ScreenedColumn) -> float:
        """What the next value of the column must exceed to be found."""
        if s.y.size and self._following(s.y.size):
            return math.inf
        level = self._search.calm(s, 1)
        return s.back(level) if math.isfinite(level) else level

    @property
    def unsettled(self) -> bool:
        """Whether anything is open that is not final."""
        return any(not o.final for o in self.open)

    def forget(self) -> None:
        """Let go of what is final."""
        self.open = [o for o in self.open if not o.final]

    def begin_anew(self) -> None:
        """Look at all rows with the next."""
        self._wait_until = 1

    def plan(self, s: ScreenedColumn) -> tuple[float, float, int]:
        """(low, high, rows): nothing happens before this many rows more, while they are from low to high (in y)."""
        n = s.y.size
        due = [at for at in (self._settle_at, self._return_at, self._wait_until) if at > 0]
        if self._redo is not None:
            due.append(n + 1)
        low, self._high = -math.inf, math.inf
        if self._following(n):
            low = self._band() if self.open and self._return_at == 0 else low
        else:
            ahead = _AHEAD if n >= NOISE_ROWS else 1
            self._high = self._search.calm(s, ahead)
            due.append(n + ahead)
        return low, self._high, max(min(due, default=n + HORIZON_ROWS) - n, 1)

    def drop(self, rows: int) -> None:
        """`rows` rows were taken off the signal's beginning."""
        self._search.drop(rows)
        if self._redo is not None:
            self._redo.drop(rows)
        for o in self.open:
            o.e = o.e.moved(rows)
            o.found.drop(rows)
        self._cleared = max(self._cleared - rows, 0)
        self._settle_at, self._return_at, self._wait_until, self._vain_until = (
            max(at - rows, 0) for at in (self._settle_at, self._return_at, self._wait_until, self._vain_until)
        )

    def _following(self, rows: int) -> bool:
        """Whether the excursion that was found last goes on."""
        return self._search.over or self._search.cursor >= rows

    def _band(self) -> float:
        e = self.open[-1].e
        return e.center + BAND_SIGMAS * e.scale

    def _advance(self, s: ScreenedColumn) -> None:
        n = s.y.size
        self._return_at = self._wait_until = 0
        if self._redo is not None:
            self._search, self._redo = self._redo, None
            if self.open and self.open[-1].e.row >= n - 2:
                self.open.pop()
        self._settle(s)
        while True:
            before = self._search.copy()
            e = self._search.resume(s, self._cleared)
            if (e is not None and e.row >= n - 1) or self._search.hangs:
                self._redo = before
            if e is None:
                break
            self.open.append(Open(e, self._search.copy()))
            self._search.take(e)
            if self._redo is not None:
                break
        self._cleared = n if self._redo is None else n - 1
        final = True
        for o in self.open:
            o.final = final = o.final or (final and n - o.e.onset >= o.e.settled.level_rows)
        self._settle_at = min((self._next(o, n) for o in self.open if not o.final), default=0)

    def _settle(self, s: ScreenedColumn) -> None:
        """Settle what is open anew; where one comes out otherwise, forget what was found after it."""
        for i, o in enumerate(self.open):
            if o.final:
                continue
            was, e = o.e, followed(s, o.e.onset, o.e.row, o.e.followed, o.e.center, o.e.scale)
            o.e = e
            if e.settled != was.settled:
                now = o.found.copy()
                now.take(e)
                then = o.found.copy()
                then.take(was)
                if _place(now) != _place(then):
                    del self.open[i + 1 :]
                    self._search, self._cleared = now, min(self._cleared, now.cursor)
                    return

    def _next(self, o: Open, rows: int) -> int:
        ends = [o.e.onset + o.e.settled.shape_rows, o.e.onset + o.e.settled.level_rows]
        if o is self.open[-1] and self._following(rows):
            ends.append(rows + _ANEW)
        return min((end for end in ends if end > rows), default=rows + 1)


def _place(search: Search) -> tuple[int, bool, int, float]:
    return search.cursor, search.over, search.past.since, search.past.known_scale


class ColumnStream(Stream):
    """The live face of a detector of excursions of one column.

    While all values are positive, `search` looks at their logarithms, and with `linear` at themselves, too, for what
    is left; from the first value on that is not, at themselves only, and anew at all rows that are kept. `judge` gives
    kind and `opens` of an excursion; with `one_kind` the kind is always the same.
    """

    def __init__(
        self,
        detector: str,
        column: str,
        search: Callable[[int], Search],
        judge: Callable[[ScreenedColumn, Excursion], tuple[str, bool]],
        *,
        linear: bool = False,
        one_kind: bool = False,
    ) -> None:
        self._detector, self._column, self._make, self._judge = detector, column, search, judge
        self._linear, self._one_kind = linear, one_kind
        made = search(_CAPACITY)
        self._enough, self._mask = made.enough, (1 << made.among) - 1
        self._begin()

    def _begin(self) -> None:
        self._step = np.empty(_CAPACITY, dtype=np.int64)
        self._raw, self._log = np.empty(_CAPACITY), np.empty(_CAPACITY)
        self._rows = 0
        self._dropped = 0
        self._unit, self._unit_until = 1.0, 0
        scales = (True, False) if self._linear else (True,)
        self._trackers = [Tracker(self._make(_CAPACITY), log) for log in scales]
        self._told: dict[int, Alarm] = {}
        self._past: list[tuple[int, int]] = []
        self._last = -1
        self._new_steps: list[int] = []
        self._new: list[float] = []
        self._low, self._high, self._due, self._hits = -math.inf, -math.inf, 1, 0

    def take(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`."""
        value = row.get(self._column)
        if type(value) is not float:
            value = number(value)
        if value is None or step <= self._last or value - value != 0.0:
            return ()
        self._last = step
        self._new_steps.append(step)
        self._new.append(value)
        hits = self._hits = (self._hits << 1 | (value > self._high)) & self._mask
        alert = hits.bit_count() >= self._enough
        if value >= self._low and not alert and len(self._new) < self._due:
            return ()
        with np.errstate(all="ignore"):
            return self._look(step, alert)

    def end(self, step: int) -> Sequence[Alarm]:
        """What changes because `step` was the last row."""
        if not self._new and not self._rows:
            return ()
        with np.errstate(all="ignore"):
            return self._look(step, False, end=True)

    def levels(self) -> Mapping[str, float]:
        """What the next value must exceed to be told at once."""
        if self._enough > 1:
            return {}
        self._take_in()
        with np.errstate(all="ignore"):
            return {self._column: min(t.level(self._signal(self._rows, t.log)) for t in self._trackers)}

    def rewound(self, step: int) -> None:
        """Forget the rows from `step` on: begin anew with those that are kept from before."""
        self._take_in()
        kept = int(np.searchsorted(self._step[: self._rows], step))
        steps, values = self._step[:kept].tolist(), self._raw[:kept].tolist()
        self._begin()
        for known, value in zip(steps, values, strict=True):
            self.take(known, {self._column: value})

    def _look(self, step: int, alert: bool, end: bool = False) -> Sequence[Alarm]:
        self._take_in()
        n = self._rows
        signals = [self._signal(n, tracker.log) for tracker in self._trackers]
        lows, highs, self._due = [-math.inf], [math.inf], HORIZON_ROWS
        first = self._trackers[0]
        first.forget()
        for tracker, s in zip(self._trackers, signals, strict=True):
            if not first.open:
                tracker.forget()
            tracker.look(s, alert, end)
            low, high, due = tracker.plan(s)
            lows.append(s.back(low) if low > -math.inf else low)
            highs.append(s.back(high) if high < math.inf else high)
            self._due = min(self._due, due)
        self._low, self._high = max(lows), min(highs)
        return self._tell(step, n, signals, end) if self._told or any(t.open for t in self._trackers) else ()

    def _take_in(self) -> None:
        """Move the rows that came into the arrays."""
        new, self._new = self._new, []
        steps, self._new_steps = self._new_steps, []
        if self._rows + len(new) > _CAPACITY:
            drop = self._rows - _KEPT
            for kept in (self._step, self._raw, self._log):
                kept[:_KEPT] = kept[drop : self._rows].copy()
            self._rows, self._dropped = _KEPT, self._dropped + drop
            self._unit_until -= drop
            for tracker in self._trackers:
                tracker.drop(drop)
        n = self._rows + len(new)
        self._step[self._rows : n], self._raw[self._rows : n] = steps, new
        if self._trackers[0].log:
            if min(new, default=1.0) > 0:
                self._log[self._rows : n] = np.log(self._raw[self._rows : n])
            else:
                self._trackers = self._trackers[1:] or [Tracker(self._make(_CAPACITY), False)]
                self._trackers[0].begin_anew()
        self._rows = n
        if n >= self._unit_until and n and not self._trackers[-1].log:
            size = np.abs(self._raw[:n])
            self._unit = max(float(np.median(size)), 1e-9 * float(size.max()))
            self._unit_until = n + max(16, n // 8)

    def _signal(self, n: int, log: bool) -> ScreenedColumn:
        raw = self._raw[:n]
        return ScreenedColumn(
            self._column,
            self._step[:n],
            raw,
            self._log[:n] if log else raw,
            log,
            1.0 if log else self._unit,
            1.0,
        )

    def _tell(self, step: int, n: int, signals: Sequence[ScreenedColumn], end: bool) -> Sequence[Alarm]:
        now: dict[int, Alarm] = {}
        seen = list(self._past)
        for tracker, s in zip(self._trackers, signals, strict=True):
            sure, first = True, tracker is self._trackers[0]
            for o in tracker.open:
                rows = o.e.onset + self._dropped, o.e.onset + self._dropped + max(o.e.settled.end, 1)
                if any(rows[0] < stop and start < rows[1] for start, stop in seen):
                    continue
                if first:
                    seen.append(rows)
                    if o.final:
                        self._past = [*self._past, rows][-8:]
                kind, opens = self._judge(s, o.e)
                settled = end or (sure and o.is_sure(n, self._one_kind) and (first or not self._trackers[0].unsettled))
                sure = sure and o.final
                state: State = "settled" if settled else "open"
                onset = int(s.step[o.e.onset])
                now[onset] = Alarm(self._detector, kind, self._column, onset, step, opens, state)
        return self._changes(step, now)

    def _changes(self, step: int, now: dict[int, Alarm]) -> Sequence[Alarm]:
        changes: list[Alarm] = []
        for onset, told in list(self._told.items()):
            if onset not in now:
                if told.state != "settled":
                    changes.append(replace(told, step=step, state="withdrawn"))
                del self._told[onset]
        for onset, alarm in now.items():
            told = self._told.get(onset)
            if told is None or (told.kind, told.opens, told.state) != (alarm.kind, alarm.opens, alarm.state):
                changes.append(alarm)
                self._told[onset] = alarm
        return changes


def spike_stream(column: str, rule: Rule, detector: str, kind: str) -> ColumnStream:
    """The live face of `spikes`."""
    return ColumnStream(
        detector, column, partial(LiveSearch, rule), lambda s, e: (kind, opens_alone(s, e, rule)), one_kind=True
    )
