"""CSV and TSV: a header, then one row a line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from postmortem.errors import UnreadableInput
from postmortem.run.naming import is_label
from postmortem.run.rows import CHUNK_ROWS, Chunk, dropped_notes
from postmortem.run.table import Table, table_of
from postmortem.run.values import Cells, cells_of
from postmortem.sources._assemble import row_source
from postmortem.sources._files import require_text, shown, suffix
from postmortem.text import plain

_MOST_COLUMNS = 10_000
_CELLS_HELD = 4_000_000


def read_table(path: Path, labels: frozenset[str]) -> Table:
    """All rows. A row with another number of fields than the header is left out, counted and noted.

    Raises:
        UnreadableInput: binary data, not UTF-8, no header.
    """
    name = shown(path)
    require_text(path, name)
    notes: list[str] = []
    chunks: list[Chunk] = []
    dropped: dict[str, int] = {}
    bad: list[int] = []
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
        header_line, header = next(((n, line) for n, line in enumerate(file, 1) if line.strip()), (0, ""))
        if not header:
            raise UnreadableInput("holds no header and no rows.", file=name)
        delimiter = max(",;\t", key=header.count)
        names = _names(_fields(header, delimiter), name, header_line, notes)
        held: list[list[str]] = []
        last = header_line
        ended = True
        for last, line in enumerate(file, header_line + 1):
            ended = line.endswith("\n")
            fields = _fields(line, delimiter)
            if len(fields) == len(names):
                held.append(fields)
            elif line.strip():
                bad.append(last)
            if len(held) == CHUNK_ROWS or len(held) * len(names) > _CELLS_HELD:
                chunks.append(_chunk(names, held, labels, dropped))
                held.clear()
        if held:
            chunks.append(_chunk(names, held, labels, dropped))
    if bad and bad[-1] == last and not ended:
        notes.append(f"{name}:{bad.pop()}: the last line is torn and was skipped")
    if bad:
        what = "row has" if len(bad) == 1 else "rows have"
        notes.append(f"{name}:{bad[0]}: {len(bad)} {what} another number of fields than the header and was skipped")
    notes += dropped_notes(name, dropped)
    if not chunks:
        raise UnreadableInput("holds a header and no rows.", file=name)
    return table_of(chunks, name, notes)


def _fields(line: str, delimiter: str) -> list[str]:
    line = line.rstrip("\r\n")
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _names(header: Sequence[str], shown: str, line: int, notes: list[str]) -> list[str]:
    """Header names made unique: a blank one becomes `column <n>`, a repeated one gets `#<n>`."""
    if len(header) > _MOST_COLUMNS:
        raise UnreadableInput(f"{len(header)} columns: no log of a run.", file=shown, line=line)
    names: list[str] = []
    for position, raw in enumerate(header, 1):
        name = raw.strip()
        if not name:
            name = f"column {position}"
            notes.append(f"{shown}:{line}: column {position} has no name")
        if name in names:
            notes.append(f"{shown}:{line}: column name {plain(name, 60)} stands twice: the first one counts")
            name = next(other for other in _numbered(name) if other not in names)
        names.append(name)
    return names


def _numbered(name: str) -> Iterator[str]:
    for n in range(2, _MOST_COLUMNS + 2):
        yield f"{name}#{n}"


def _chunk(names: list[str], rows: list[list[str]], labels: frozenset[str], dropped: dict[str, int]) -> Chunk:
    columns: dict[str, Cells] = {}
    for name, cells in zip(names, zip(*rows, strict=True), strict=True):
        columns[name], lost = cells_of(cells, label=name in labels or is_label(name))
        if lost:
            dropped[name] = dropped.get(name, 0) + lost
    return Chunk(len(rows), columns)


SOURCE = row_source("csv", "a CSV file (.csv, .tsv)", lambda path: suffix(path, ".csv", ".tsv"), read_table)
