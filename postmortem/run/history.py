"""The rows that count: their keys (attempt, step, rank), segments, and the effective history, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from postmortem.run.values import Mask, Numbers, Objects
from postmortem.series import Steps, Values

_END = np.iinfo(np.int64).max  # a step after every step


@dataclass(frozen=True, slots=True)
class Segment:
    """The steps of one attempt, between a start or resume and the next rewind.

    Rows with `first_step` <= step < `kept_until` belong to the effective history; a later attempt repeated those from
    `kept_until` on, and `discarded` says that there are such rows.
    """

    attempt: int
    first_step: int
    last_step: int
    kept_until: int
    discarded: bool


@dataclass(frozen=True, eq=False)
class RowKeys:
    """Row keys of one table, int64[n] each. `rows` are the positions in the table, None where it is all of them."""

    step: Steps
    attempt: Steps | None = None
    rank: Steps | None = None
    rows: Steps | None = None

    def attempts(self) -> tuple[int, ...]:
        """The attempts that have rows, ascending."""
        if self.attempt is None:
            return (0,) if self.step.size else ()
        return tuple(np.unique(self.attempt).tolist())

    def ranks(self) -> tuple[int, ...]:
        """The ranks that have rows, ascending."""
        if self.rank is None:
            return (0,) if self.step.size else ()
        return tuple(np.unique(self.rank).tolist())

    def spans(self) -> dict[int, tuple[int, int]]:
        """attempt → (first step, last step)."""
        if self.attempt is None:
            return {0: (int(self.step.min()), int(self.step.max()))} if self.step.size else {}
        return {
            a: (int(steps.min()), int(steps.max()))
            for a in self.attempts()
            for steps in (self.step[self.attempt == a],)
        }


def segments(spans: Mapping[int, tuple[int, int]]) -> tuple[Segment, ...]:
    """Segments from each attempt's (first, last) step: a later attempt discards the steps that it repeats."""
    out: list[Segment] = []
    for attempt, (first, last) in sorted(spans.items()):
        redone = min((f for later, (f, _) in spans.items() if later > attempt), default=_END)
        out.append(Segment(attempt, first, last, min(redone, last + 1), redone <= last))
    return tuple(out)


@dataclass(frozen=True, eq=False)
class HistoryView:
    """Rows of one history in order of (step, rank). `order` are table positions; None: the table as it stands."""

    order: Steps | None
    step: Steps
    rank: Steps | None

    @cached_property
    def unique(self) -> bool:
        """Whether every step has one row."""
        return bool((self.step[1:] > self.step[:-1]).all())

    @cached_property
    def row_steps(self) -> Steps:
        """int64[m], strictly increasing: every step that has a row."""
        return self.step if self.unique else np.unique(self.step)

    def numbers(self, column: Numbers, rank: int | None) -> tuple[Steps, Values]:
        """(step int64[m], value float64[m]) of a column of the table: the last logged value of each (step, rank),
        averaged over ranks.

        `rank` keeps that rank only. A column without gaps shares `row_steps`.
        """
        picked = self._picked_rows(column.logged, rank)
        out = column.value if self.order is None else column.value[self.order]
        if picked is None:
            return self.row_steps, out
        step, out = self.step[picked], out[picked]
        if self.rank is not None and rank is None and step.size:
            first = np.flatnonzero(np.append(True, step[1:] != step[:-1]))
            with np.errstate(invalid="ignore", over="ignore"):
                out = np.add.reduceat(out, first) / np.diff(np.append(first, step.size))
            step = step[first]
        return (self.row_steps if step.size == self.row_steps.size else step), out

    def objects(self, values: Objects, rank: int | None) -> tuple[Steps, Objects]:
        """(step int64[m], object[m]) from the table's object[rows]: the last logged object of the lowest rank, or of
        `rank`."""
        logged = np.array([v is not None for v in values], np.bool_)
        picked = self._picked_rows(logged, rank)
        out = values if self.order is None else values[self.order]
        if picked is None:
            return self.row_steps, out
        step, out = self.step[picked], out[picked]
        first = np.append(True, step[1:] != step[:-1]) if step.size else np.zeros(0, np.bool_)
        return step[first], out[first]

    def _picked_rows(self, logged: Mask | None, rank: int | None) -> Steps | None:
        """The rows of this view that are the last logged ones of their (step, rank); None where all of them are."""
        keep = None if logged is None else logged if self.order is None else logged[self.order]
        if rank is not None and self.rank is not None:
            keep = self.rank == rank if keep is None else keep & (self.rank == rank)
        if (keep is None or keep.all()) and self.unique:
            return None
        rows = np.arange(self.step.size) if keep is None else np.flatnonzero(keep)
        if self.unique or not rows.size:
            return rows
        step = self.step[rows]
        last = step[1:] != step[:-1]
        if self.rank is not None:
            ranks = self.rank[rows]
            last |= ranks[1:] != ranks[:-1]
        return rows[np.append(last, True)]


def history_view(keys: RowKeys, starts: Mapping[int, int], attempt: int | None) -> HistoryView:
    """The effective history; with `attempt`, the lineage as that attempt saw it, its discarded rows included.

    `starts` maps attempt → its first step over all tables of the run.
    """
    step, rank, rows = keys.step, keys.rank, keys.rows
    if keys.attempt is not None:
        lineage = [a for a in keys.attempts() if attempt is None or a <= attempt]
        keep = np.zeros(step.size, np.bool_)
        for a in lineage:
            later = [first for b, first in starts.items() if b > a and (attempt is None or b <= attempt)]
            keep |= (keys.attempt == a) & (step < min(later, default=_END))
        if not keep.all():
            kept = np.flatnonzero(keep)
            step, rank = step[kept], None if rank is None else rank[kept]
            rows = kept if rows is None else rows[kept]
    ordered = bool((step[1:] > step[:-1]).all())
    if not ordered:
        order = np.argsort(step, kind="stable") if rank is None else np.lexsort((rank, step))
        rows = order if rows is None else rows[order]
        step, rank = step[order], None if rank is None else rank[order]
    if rank is not None and (step.size == 0 or bool((rank == rank[0]).all())):
        rank = None
    return HistoryView(rows, step, rank)
