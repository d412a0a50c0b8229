"""The rows of a log as columns that are read one at a time, from any kind of storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from postmortem.run.naming import is_label
from postmortem.run.rows import Chunk
from postmortem.run.spellings import Spelled, read_spelled
from postmortem.run.values import Cells, LabelCells, Mask, Numbers, Objects, is_spelled
from postmortem.series import Steps
from postmortem.text import count, plain


@dataclass(frozen=True, slots=True)
class Bounds:
    """Statistics of one column that need no rows: null cells, smallest and largest number (None: unknown)."""

    nulls: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Part:
    """Consecutive rows. `load(name)` reads one of `names`; `bounds(name)` reads nothing, and may be None."""

    rows: int
    names: tuple[str, ...]
    load: Callable[[str], Cells]
    bounds: Callable[[str], Bounds | None]

    def __contains__(self, name: str) -> bool:
        """Whether it has a column of this name."""
        return name in self._name_set

    @cached_property
    def _name_set(self) -> frozenset[str]:
        return frozenset(self.names)

    def renamed(self, own_names: Mapping[str, str]) -> Part:
        """The same rows, with new names → its own names for some columns."""
        new = {own: name for name, own in own_names.items()}
        names = tuple(new.get(name, name) for name in self.names)
        return Part(
            self.rows,
            names,
            lambda name: self.load(own_names.get(name, name)),
            lambda name: self.bounds(own_names.get(name, name)),
        )

    def having(self, column: str, cells: Cells) -> Part:
        """The same rows, with `cells` as a column of this name."""
        return Part(
            self.rows,
            tuple(dict.fromkeys((*self.names, column))),
            lambda name: cells if name == column else self.load(name),
            lambda name: _bounds_of(cells) if name == column else self.bounds(name),
        )


@dataclass(frozen=True)
class Table:
    """All rows of `metrics` or of `batches`, in file order. `display_name` names the file or folder in messages.

    `joins` are the rows at which another log begins, where several are one table."""

    display_name: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()
    joins: tuple[int, ...] = ()

    @cached_property
    def rows(self) -> int:
        """Number of rows, before any is dropped or merged."""
        return sum(part.rows for part in self.parts)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The log's own column names, in order of first appearance."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.names))

    def numbers(self, name: str) -> Numbers | None:
        """The column over all rows; None where it contains no numbers."""
        if len(self.parts) == 1:
            cells = self.parts[0].load(name) if name in self.parts[0] else None
            return cells if isinstance(cells, Numbers) else None
        value = np.empty(self.rows, np.float64)
        gaps: list[tuple[int, int, Mask | None]] = []
        start, numeric = 0, False
        for part in self.parts:
            end = start + part.rows
            cells = part.load(name) if name in part else None
            if isinstance(cells, Numbers):
                numeric = True
                value[start:end] = cells.value
            if not isinstance(cells, Numbers) or cells.logged is not None:
                gaps.append((start, end, cells.logged if isinstance(cells, Numbers) else None))
            start = end
        if not numeric:
            return None
        if not gaps:
            return Numbers(value, None)
        logged = np.ones(self.rows, np.bool_)
        for first, end, mask in gaps:
            logged[first:end] = False if mask is None else mask
        return Numbers(value, logged)

    def objects(self, name: str) -> Objects:
        """object[rows]: text, lists or numbers as Python objects, None where not logged."""
        out = np.full(self.rows, None, np.object_)
        start = 0
        for part in self.parts:
            if name in part:
                cells = part.load(name)
                out[start : start + part.rows] = cells.value
                if isinstance(cells, Numbers) and cells.logged is not None:
                    out[start : start + part.rows][~cells.logged] = None
            start += part.rows
        return out

    def at(self, rows: Steps, names: Sequence[str] | None = None) -> Table:
        """The table of some of its rows, positions int64[n], and columns (None: all)."""

        @cache
        def load(name: str) -> Cells:
            numbers = self.numbers(name)
            if numbers is None:
                return LabelCells(self.objects(name)[rows])
            return Numbers(numbers.value[rows], None if numbers.logged is None else numbers.logged[rows])

        chosen = self.names if names is None else tuple(names)
        part = Part(rows.size, chosen, load, lambda name: _bounds_of(load(name)))
        return Table(self.display_name, (part,), self.notes)

    def bounds(self, name: str) -> Bounds | None:
        """The column's statistics over all parts (a part without it counts as null), or None where unknown."""
        bounds = [part.bounds(name) if name in part else Bounds(part.rows) for part in self.parts]
        return joined_bounds(bounds, [part.rows for part in self.parts])


def joined_bounds(parts: Sequence[Bounds | None], rows: Sequence[int]) -> Bounds | None:
    """The bounds of several parts with so many rows each; None where those of one part are unknown."""
    known = [b for b in parts if b is not None]
    if len(known) < len(parts):
        return None
    logged = [b for b, n in zip(known, rows, strict=True) if b.nulls < n]
    lows = [b.low for b in logged if b.low is not None]
    highs = [b.high for b in logged if b.high is not None]
    nulls = sum(b.nulls for b in known)
    if len(lows) < len(logged) or not logged:
        return Bounds(nulls)
    return Bounds(nulls, min(lows), max(highs))


def memory_part(chunk: Chunk) -> Part:
    """Rows that are in memory already."""
    return Part(
        chunk.rows, tuple(chunk.columns), chunk.columns.__getitem__, lambda name: _bounds_of(chunk.columns[name])
    )


def _bounds_of(cells: Cells) -> Bounds:
    if isinstance(cells, LabelCells):
        return Bounds(cells.nulls)
    logged = cells.value if cells.logged is None else cells.value[cells.logged]
    finite = logged[np.isfinite(logged)]
    return Bounds(cells.nulls, float(finite.min()), float(finite.max())) if finite.size else Bounds(cells.nulls)


def table_of(
    chunks: Sequence[Chunk], display_name: str, notes: Sequence[str] = (), labels: frozenset[str] = frozenset()
) -> Table:
    """A table of rows in memory, with the columns of `read_spelled` as numbers; `labels` are columns that stay text."""
    names = dict.fromkeys(name for chunk in chunks for name, cells in chunk.columns.items() if _has_spelled(cells))
    cells = {name: _cells_of_column(chunks, name) for name in names if name not in labels and not is_label(name)}
    read = {name: read_spelled(column) for name, column in cells.items()}
    if any(column is not None and column.decimal for column in read.values()):
        read = {name: column or read_spelled(cells[name], decimal=True) for name, column in read.items()}
    columns = {name: column for name, column in read.items() if column is not None}
    # a part of a column is no column: where some rows are numbers, and others tell no number, all of them are text
    mixed = {name for name, column in read.items() if column is None and _has_numbers(chunks, name)}
    ends = np.cumsum([chunk.rows for chunk in chunks]).tolist()
    parts = [
        memory_part(Chunk(chunk.rows, {**_as_text(chunk, mixed), **_rows_of(columns, end - chunk.rows, end)}))
        for chunk, end in zip(chunks, ends, strict=True)
    ]
    spelled = [
        f"{display_name}: column {plain(name, 60)} is {plain(column.how, 60)}: read as numbers"
        + (f", {count(column.dropped, 'cell')} that is no number as not logged" if column.dropped else "")
        for name, column in columns.items()
    ]
    spelled += [
        f"{display_name}: column {plain(name, 60)} is written in more than one way: not read as numbers"
        for name in sorted(mixed)
    ]
    return Table(display_name, tuple(parts), (*notes, *spelled))


def _has_spelled(cells: Cells) -> bool:
    return isinstance(cells, LabelCells) and any(map(is_spelled, cells.value))


def _has_numbers(chunks: Sequence[Chunk], name: str) -> bool:
    return any(isinstance(chunk.columns.get(name), Numbers) for chunk in chunks)


def _as_text(chunk: Chunk, names: AbstractSet[str]) -> dict[str, Cells]:
    """The columns of a chunk, those of `names` as labels."""
    cells = dict(chunk.columns)
    for name in names & cells.keys():
        labels = np.full(chunk.rows, None, np.object_)
        labels[:] = _cells_of_column([chunk], name)
        cells[name] = LabelCells(labels)
    return cells


def _cells_of_column(chunks: Sequence[Chunk], name: str) -> list[object]:
    """All cells of a column: text, numbers, or None where not logged."""
    cells: list[object] = []
    for chunk in chunks:
        column = chunk.columns.get(name)
        if column is None:
            cells += [None] * chunk.rows
        elif isinstance(column, Numbers) and column.logged is not None:
            cells += [v if logged else None for v, logged in zip(column.value.tolist(), column.logged, strict=True)]
        else:
            cells += column.value.tolist()
    return cells


def _rows_of(columns: Mapping[str, Spelled], first: int, end: int) -> dict[str, Cells]:
    """The columns of rows first <= row < end."""
    rows_of: dict[str, Cells] = {}
    for name, column in columns.items():
        logged = column.numbers.logged
        rows_of[name] = Numbers(column.numbers.value[first:end], None if logged is None else logged[first:end])
    return rows_of
