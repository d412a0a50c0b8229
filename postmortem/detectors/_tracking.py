"""One live search for excursions on one scale of one column, and the excursions in it that later rows may change.

While a row is below a level under which none of the next few rows can be found (`safe_level`), it is compared with two
numbers only. Above it, the detector's own search goes on over the rows that are kept: the same functions as
over a whole run. Excursions that later rows may change are kept open; where the course of one changes, the search
after it is repeated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, Self

from postmortem.detectors._course import BAND_SIGMAS, HORIZON_ROWS, SOON_ROWS
from postmortem.detectors._excursion import BaselineRows, Excursion
from postmortem.detectors._screen import NOISE_ROWS, ScreenedColumn

_AHEAD_ROWS = 7
"""Rows for which one level is valid. The level falls with their number, and a search costs as much as some of them."""

_RETURN_AFTER_ROWS = SOON_ROWS - 1
"""Rows after a possible return until it is certain: its median needs them."""

_RECHECK_ROWS = 25
"""Rows between two looks at an excursion that goes on."""

_POSTPONED_ROWS = 4
"""Rows until a row is looked at that is lower than one in which nothing was found: each look costs a search."""


class ColumnSearch(Protocol):
    """A detector's search over the latest rows of a signal; the methods are those of `LiveExcursionSearch`."""

    baseline: BaselineRows
    cursor: int
    finished: bool
    last_row_undecided: bool
    """Whether more than an excursion depends on the last row: the row after it still moves its noise."""
    alert_rows: int
    alert_window: int
    """A search is worth its cost where `alert_rows` of the last `alert_window` rows are above `safe_level`."""

    def resume(self, s: ScreenedColumn, cleared: int) -> Excursion | None: ...
    def continue_after(self, e: Excursion) -> None: ...
    def may_find_last_row(self, s: ScreenedColumn) -> bool: ...
    def safe_level(self, s: ScreenedColumn, ahead: int) -> float: ...
    def copy(self) -> Self: ...
    def drop_first(self, rows: int) -> None: ...


@dataclass
class OpenExcursion:
    """An excursion with its course so far, and a copy of the search from when it was found."""

    e: Excursion
    search: ColumnSearch
    final: bool = False

    def is_decided(self, rows: int, one_kind: bool) -> bool:
        """Whether `rows` rows of the signal decide that it is one, and its kind where there are several."""
        return rows > self.e.row + 1 if one_kind else rows - self.e.onset >= self.e.course.shape_rows


class Tracker:
    """One search on one scale, with its open excursions, oldest first. All rows are those of the signal."""

    def __init__(self, search: ColumnSearch, log: bool) -> None:
        self.log = log
        self.open: list[OpenExcursion] = []
        self._search = search
        self._before_last_row: ColumnSearch | None = None  # to search the last row once more with the next one
        self._cleared = 0  # rows known not to stand out
        self._settle_row = self._return_row = self._wait_until = self._postponed_until = 0  # 0: nothing is due
        self._high = self._postponed_level = -math.inf

    def take_rows(self, s: ScreenedColumn, alert: bool, end: bool) -> None:
        """Take in the new rows of the signal; on `alert`, the last of them are above what `plan` returned."""
        n, last = s.y.size, float(s.y[-1])
        if end or self._before_last_row is not None or n >= self._settle_row > 0 or n >= self._return_row > 0:
            self._advance(s)
        elif self._is_following(n):
            if self.open and self._return_row == 0 and last <= self._band_top():
                self._return_row = n + _RETURN_AFTER_ROWS
        elif 0 < self._wait_until <= n:
            self._advance(s)
        elif alert and (self._search.alert_window > 1 or last > self._high) and self._search.may_find_last_row(s):
            if n < self._postponed_until and last <= self._postponed_level:
                self._wait_until = self._postponed_until
                return
            self._advance(s)
            self._postponed_until, self._postponed_level = n + _POSTPONED_ROWS, last
        elif self._wait_until == 0:
            self._cleared = n

    def alert_level(self, s: ScreenedColumn) -> float:
        """What the next value of the column must exceed to be found, in the column's own unit."""
        if s.y.size and self._is_following(s.y.size):
            return math.inf
        level = self._search.safe_level(s, 1)
        return s.to_raw(level) if math.isfinite(level) else level

    @property
    def unsettled(self) -> bool:
        """Whether any open excursion is not final."""
        return any(not o.final for o in self.open)

    def forget_final(self) -> None:
        """Drop the open excursions that are final."""
        self.open = [o for o in self.open if not o.final]

    def search_with_next_row(self) -> None:
        """Search all rows as soon as the next one comes."""
        self._wait_until = 1

    def plan(self, s: ScreenedColumn) -> tuple[float, float, int]:
        """(low, high, rows): nothing happens for this many further rows, while they are from low to high (in y)."""
        n = s.y.size
        due = [row for row in (self._settle_row, self._return_row, self._wait_until) if row > 0]
        if self._before_last_row is not None:
            due.append(n + 1)
        low, self._high = -math.inf, math.inf
        if self._is_following(n):
            low = self._band_top() if self.open and self._return_row == 0 else low
        else:
            ahead = _AHEAD_ROWS if n >= NOISE_ROWS else 1
            self._high = self._search.safe_level(s, ahead)
            due.append(n + ahead)
        return low, self._high, max(min(due, default=n + HORIZON_ROWS) - n, 1)

    def drop_first(self, rows: int) -> None:
        """The first `rows` rows of the signal were dropped."""
        self._search.drop_first(rows)
        if self._before_last_row is not None:
            self._before_last_row.drop_first(rows)
        for o in self.open:
            o.e = o.e.shifted(rows)
            o.search.drop_first(rows)
        self._cleared = max(self._cleared - rows, 0)
        self._settle_row, self._return_row, self._wait_until, self._postponed_until = (
            max(row - rows, 0) for row in (self._settle_row, self._return_row, self._wait_until, self._postponed_until)
        )

    def _is_following(self, rows: int) -> bool:
        """Whether the excursion that was found last goes on."""
        return self._search.finished or self._search.cursor >= rows

    def _band_top(self) -> float:
        """The level of y below which a row may be the return of the last excursion."""
        e = self.open[-1].e
        return e.center + BAND_SIGMAS * e.scale

    def _advance(self, s: ScreenedColumn) -> None:
        """Search as far as the rows go."""
        n = s.y.size
        self._return_row = self._wait_until = 0
        if self._before_last_row is not None:
            self._search, self._before_last_row = self._before_last_row, None
            if self.open and self.open[-1].e.row >= n - 2:
                self.open.pop()
        self._update_courses(s)
        while True:
            before = self._search.copy()
            e = self._search.resume(s, self._cleared)
            if (e is not None and e.row >= n - 1) or self._search.last_row_undecided:
                self._before_last_row = before
            if e is None:
                break
            self.open.append(OpenExcursion(e, self._search.copy()))
            self._search.continue_after(e)
            if self._before_last_row is not None:
                break
        self._cleared = n if self._before_last_row is None else n - 1
        final = True
        for o in self.open:
            o.final = final = o.final or (final and n - o.e.onset >= o.e.course.level_rows)
        self._settle_row = min((self._next_check(o, n) for o in self.open if not o.final), default=0)

    def _update_courses(self, s: ScreenedColumn) -> None:
        """Follow the open excursions once more; where a changed course moves the search, drop what came after it."""
        for i, o in enumerate(self.open):
            if o.final:
                continue
            old, e = o.e, o.e.followed_in(s)
            o.e = e
            if e.course != old.course:
                search = o.search.copy()
                search.continue_after(e)
                old_search = o.search.copy()
                old_search.continue_after(old)
                if _position(search) != _position(old_search):
                    del self.open[i + 1 :]
                    self._search, self._cleared = search, min(self._cleared, search.cursor)
                    return

    def _next_check(self, o: OpenExcursion, rows: int) -> int:
        """The row at which the course of an open excursion is followed once more."""
        ends = [o.e.onset + o.e.course.shape_rows, o.e.onset + o.e.course.level_rows]
        if o is self.open[-1] and self._is_following(rows):
            ends.append(rows + _RECHECK_ROWS)
        return min((end for end in ends if end > rows), default=rows + 1)


def _position(search: ColumnSearch) -> tuple[int, bool, int, float]:
    """Where a search goes on, and with which baseline."""
    return search.cursor, search.finished, search.baseline.since, search.baseline.known_scale
