"""The rows of a log as columns that are read one at a time, from any kind of storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from postmortem.errors import UnreadableInput
from postmortem.run.arrow import from_arrow
from postmortem.run.naming import is_label
from postmortem.run.rows import Chunk
from postmortem.run.values import Cells, LabelCells, Mask, Numbers, Objects
from postmortem.text import plain

Metadata = Any  # pyarrow.parquet.FileMetaData; pyarrow ships no types


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


@dataclass(frozen=True)
class Table:
    """All rows of `metrics` or of `batches`, in file order. `display_name` names the file or folder in messages."""

    display_name: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Number of rows, before any is dropped or merged."""
        return sum(part.rows for part in self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The log's own column names, in order of first appearance."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.names))

    def numbers(self, name: str) -> Numbers | None:
        """The column over all rows; None where it contains no numbers."""
        if len(self.parts) == 1:
            cells = self.parts[0].load(name) if name in self.parts[0].names else None
            return cells if isinstance(cells, Numbers) else None
        value = np.empty(self.rows, np.float64)
        gaps: list[tuple[int, int, Mask | None]] = []
        start, numeric = 0, False
        for part in self.parts:
            end = start + part.rows
            cells = part.load(name) if name in part.names else None
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
            if name in part.names:
                cells = part.load(name)
                out[start : start + part.rows] = cells.value
                if isinstance(cells, Numbers) and cells.logged is not None:
                    out[start : start + part.rows][~cells.logged] = None
            start += part.rows
        return out

    def bounds(self, name: str) -> Bounds | None:
        """The column's statistics over all parts (a part without it counts as null), or None where unknown."""
        bounds = [part.bounds(name) if name in part.names else Bounds(part.rows) for part in self.parts]
        return _joined_bounds(bounds, [part.rows for part in self.parts])


def _joined_bounds(parts: Sequence[Bounds | None], rows: Sequence[int]) -> Bounds | None:
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


def parquet_part(path: Path, display_name: str, labels: frozenset[str]) -> Part:
    """One Parquet file, of which only the footer is read until a column is asked for.

    Text in `labels`, and in columns that are labels by their name, stays text.

    Raises:
        UnreadableInput: empty, corrupt, or no Parquet file at all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.stat().st_size == 0:
        raise UnreadableInput("the file is empty (0 bytes).", file=display_name)
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            names = tuple(dict.fromkeys(file.schema_arrow.names))
    except (pa.ArrowException, OSError) as error:
        raise UnreadableInput(f"not a readable Parquet file ({_first_line(error)}).", file=display_name) from error
    leaves = _leaves(metadata)

    def load(name: str) -> Cells:
        label = name in labels or is_label(name)
        try:
            with pq.ParquetFile(path, metadata=metadata) as file:
                table = file.read(columns=[name], use_threads=False)
            return from_arrow(table.column(table.column_names.index(name)).combine_chunks(), label=label)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UnreadableInput(f"damaged Parquet file ({_first_line(error)}).", file=display_name) from error

    def bounds(name: str) -> Bounds | None:
        leaf = leaves.get(name)
        return None if leaf is None else _leaf_bounds(metadata, leaf)

    return Part(metadata.num_rows, names, load, bounds)


def _leaves(metadata: Metadata) -> Mapping[str, int]:
    """Flat column name → index of its leaf."""
    schema = metadata.schema
    return {schema.column(i).path: i for i in range(len(schema)) if schema.column(i).max_repetition_level == 0}


def _leaf_bounds(metadata: Metadata, leaf: int) -> Bounds | None:
    groups: list[Bounds | None] = []
    rows: list[int] = []
    for group in range(metadata.num_row_groups):
        column = metadata.row_group(group).column(leaf)
        statistics = column.statistics if column.is_stats_set else None
        rows.append(column.num_values)
        if statistics is None or statistics.null_count is None:
            return None
        numeric = statistics.has_min_max and isinstance(statistics.min, (int, float))
        ends = (statistics.min, statistics.max) if numeric else (None, None)
        groups.append(Bounds(statistics.null_count, *ends))
    return _joined_bounds(groups, rows)


def _first_line(error: BaseException) -> str:
    return plain(str(error).splitlines()[0] if str(error) else type(error).__name__, 120)


def table_of(chunks: Sequence[Chunk], display_name: str, notes: Sequence[str] = ()) -> Table:
    """A table of rows in memory."""
    return Table(display_name, tuple(memory_part(chunk) for chunk in chunks), tuple(notes))
