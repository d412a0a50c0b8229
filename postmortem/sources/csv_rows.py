"""CSV and TSV: a header, then one row per line."""

from __future__ import annotations

import sys
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from postmortem.errors import UnreadableInput
from postmortem.run.arrow import from_arrow
from postmortem.run.naming import is_label
from postmortem.run.rows import Chunk, dropped_notes
from postmortem.run.table import Table, table_of
from postmortem.run.values import NULL_TOKENS, Cells, LabelCells, cells_of
from postmortem.small_file import open_regular
from postmortem.sources._assemble import row_source
from postmortem.sources._files import display_name, require_text
from postmortem.sources._shape import counts_steps, delimiter_of, fields_of, table_header
from postmortem.sources._source import Candidate, Confidence, FormatMatch, by_ending
from postmortem.text import count, plain

_MOST_COLUMNS = 10_000  # more are no log of a run
_MOST_SEPARATORS = 4 * _MOST_COLUMNS  # in a line; some may be quoted
_MOST_NOTES = 20  # about the names in a header
_BLOCK = 8 * 2**20  # bytes
_SMALL = 2**17  # bytes of a block that Python reads faster than it imports pyarrow
_LINE_LIMIT = 8 * 2**20  # bytes of a line that is still read
_BLANK = b" \t\r\n\xef\xbb\xbf"
_BLANK_TEXT = " \t\r\n"
_NULLS = [token for word in sorted(NULL_TOKENS) for token in {word, word.upper(), word.capitalize()}]
_any_csv = by_ending(".csv", ".tsv")


def sniff(candidate: Candidate) -> FormatMatch | None:
    """Any .csv or .tsv, and under any other name a plain header above rows of numbers."""
    match = _any_csv(candidate)
    if match is not None or not (names := table_header(candidate)):
        return match
    confidence = Confidence.LIKELY if counts_steps(names) else Confidence.POSSIBLE
    return FormatMatch(confidence, "it begins with a header and rows of as many numbers")


def read_table(path: Path, labels: frozenset[str]) -> Table:
    """All rows. A row whose number of fields differs from the header's is left out, counted and noted.

    Raises:
        UnreadableInput: binary data, not UTF-8, no header.
    """
    name = display_name(path)
    require_text(path, name)
    notes: list[str] = []
    with open_regular(path, name) as file:
        header_line, header = _header(file, name)
        text = header.decode("utf-8-sig", errors="replace")
        if not text.strip():
            raise UnreadableInput("has no header and no rows.", file=name)
        delimiter = delimiter_of(text)
        if '"' not in text:
            _check_columns(text.count(delimiter) + 1, name, header_line)
        names = _names(fields_of(text, delimiter), name, header_line, notes)
        reader = _Reader(names, delimiter, labels, header_line + 1)
        ended = True
        while block := file.read(_BLOCK):
            end = file.readline(_LINE_LIMIT)
            block, ended = block + end, end.endswith(b"\n") or (not end and block.endswith(b"\n"))
            if len(end) == _LINE_LIMIT and not ended:
                whole = block.rfind(b"\n") + 1
                reader.add(block[:whole])
                ended = reader.pass_over(file)
            else:
                reader.add(block)
    if not reader.chunks:
        bare = b"\r" in header.rstrip(b"\r\n")
        problem = "its lines end in bare carriage returns." if bare else reader.why_no_rows(header_line)
        raise UnreadableInput(problem, file=name, hint="Convert them to \\n." if bare else "")
    return table_of(reader.chunks, name, [*notes, *reader.notes(name, ended=ended)], labels)


@dataclass
class _Reader:
    """Blocks of whole lines in, chunks of columns out."""

    names: list[str]
    delimiter: str
    labels: frozenset[str]
    line: int
    chunks: list[Chunk] = field(default_factory=list[Chunk])
    _dropped_cells: dict[str, int] = field(default_factory=dict[str, int])
    _text_names: set[str] = field(default_factory=set[str])
    _bad: int = 0
    _first_bad: int = 0
    _torn: int = 0

    def add(self, block: bytes) -> None:
        """Read the next lines of the file."""
        cells = self._at_once(block)
        columns = self._line_by_line(block) if cells is None else cells
        self._text_names |= {name for name, column in columns.items() if isinstance(column, LabelCells)}
        size = next((column.value.size for column in columns.values()), 0)
        if size:
            self.chunks.append(Chunk(size, columns))
        self.line += block.count(b"\n")

    def pass_over(self, file: BinaryIO) -> bool:
        """Leave out a line that is too long, up to its end; whether it has one."""
        while (part := file.readline(_LINE_LIMIT)) and not part.endswith(b"\n"):
            pass
        self._add_bad(self.line, torn=not part)
        self.line += 1
        return bool(part)

    def why_no_rows(self, header_line: int) -> str:
        """Why no row was read."""
        if not self._bad:
            return "has a header and no rows."
        return f"no row has as many fields as its header in line {header_line} ({len(self.names)})."

    def notes(self, display_name: str, *, ended: bool) -> list[str]:
        """One sentence about each kind of thing that could not be read."""
        notes: list[str] = []
        if self._torn:
            notes.append(f"{display_name}:{self._torn}: the last line is torn and was skipped")
        elif not ended:
            notes.append(f"{display_name}:{self.line}: the last line has no line end, so its last number may be torn")
        if self._bad:
            skipped = f"{count(self._bad, 'row')} {'was' if self._bad == 1 else 'were'} skipped"
            notes.append(
                f"{display_name}:{self._first_bad}: {skipped}, because the number of fields differs from the header's"
            )
        return notes + dropped_notes(display_name, self._dropped_cells)

    def _is_label(self, name: str) -> bool:
        return name in self.labels or is_label(name)

    def _at_once(self, block: bytes) -> Mapping[str, Cells] | None:
        """A block without quotes, ragged rows and text among numbers, ten times as fast; None where it has any of these
        or is so small that importing pyarrow takes longer."""
        if len(block) < _SMALL and "pyarrow" not in sys.modules:
            return None
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        if b'"' in block or block.count(b"\r") != block.count(b"\r\n") or _ends_within_character(block):
            return None
        text = {name for name in self.names if name in self._text_names or self._is_label(name)}
        ragged: list[object] = []

        def skip(row: object) -> str:
            ragged.append(row)
            return "skip"

        try:
            table = arrow_csv.read_csv(
                pa.py_buffer(block),
                arrow_csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=self.names),
                arrow_csv.ParseOptions(delimiter=self.delimiter, quote_char=False, invalid_row_handler=skip),
                arrow_csv.ConvertOptions(
                    column_types={name: pa.string() if name in text else pa.float64() for name in self.names},
                    null_values=_NULLS,
                ),
            )
        except pa.ArrowInvalid:
            return None
        if ragged:
            return None
        return {
            name: self._cells(name, column.to_pylist()) if name in text else from_arrow(column, label=False)
            for name, column in ((name, table.column(name).combine_chunks()) for name in self.names)
        }

    def _line_by_line(self, block: bytes) -> Mapping[str, Cells]:
        rows: list[list[str]] = []
        for number, line in enumerate(block.decode(errors="replace").split("\n"), self.line):
            fields = fields_of(line, self.delimiter) if line.count(self.delimiter) <= _MOST_SEPARATORS else []
            if len(fields) == len(self.names) and line.strip(_BLANK_TEXT):
                rows.append(fields)
            elif line.strip(_BLANK_TEXT):
                self._add_bad(number, torn=not block.endswith(b"\n") and number == self.line + block.count(b"\n"))
        if not rows:
            return {}
        columns = zip(*rows, strict=True)
        return {name: self._cells(name, column) for name, column in zip(self.names, columns, strict=True)}

    def _cells(self, name: str, values: Sequence[object]) -> Cells:
        cells, dropped = cells_of(values, label=self._is_label(name))
        if dropped:
            self._dropped_cells[name] = self._dropped_cells.get(name, 0) + dropped
        return cells

    def _add_bad(self, number: int, *, torn: bool) -> None:
        if torn:
            self._torn = number
        else:
            self._first_bad = self._first_bad or number
            self._bad += 1


def _ends_within_character(block: bytes) -> bool:
    """Whether the file was cut within a character, of which pyarrow writes to stderr where the row is ragged, too."""
    try:
        block[block.rfind(b"\n") + 1 :].decode()
    except UnicodeDecodeError:
        return True
    return False


def _names(header: Sequence[str], display_name: str, line: int, notes: list[str]) -> list[str]:
    """Unique header names: a blank one becomes `column <n>`, a repeated one gets `#<n>`."""
    _check_columns(len(header), display_name, line)
    names: dict[str, None] = {}
    numbers: dict[str, int] = {}
    problems: list[str] = []
    for position, raw in enumerate(header, 1):
        name = raw.strip()
        if not name:
            name = f"column {position}"
            problems.append(f"{display_name}:{line}: column {position} has no name")
        if name in names:
            problems.append(
                f"{display_name}:{line}: column name {plain(name, 60)} appears twice: the first column counts"
            )
            name = _numbered(name, names, numbers)
        names[name] = None
    notes += problems[:_MOST_NOTES]
    if len(problems) > _MOST_NOTES:
        notes.append(f"{display_name}:{line}: {len(problems) - _MOST_NOTES:,} more columns like these")
    return list(names)


def _numbered(name: str, names: Container[str], numbers: dict[str, int]) -> str:
    """`name` with the first number that is free; `numbers` are the last ones, so that they are not tried again."""
    number = numbers.get(name, 1) + 1
    while f"{name}#{number}" in names:
        number += 1
    numbers[name] = number
    return f"{name}#{number}"


def _check_columns(count: int, display_name: str, line: int) -> None:
    if count > _MOST_COLUMNS:
        raise UnreadableInput(f"{count} columns: no log of a run.", file=display_name, line=line)


def _header(file: BinaryIO, display_name: str) -> tuple[int, bytes]:
    """(number, bytes) of the first line that is not blank; (0, nothing) where there is none."""
    number = 0
    while line := file.readline(_LINE_LIMIT):
        number += 1
        if len(line) == _LINE_LIMIT and not line.endswith(b"\n"):
            raise UnreadableInput(
                f"a header of more than {_LINE_LIMIT >> 20} MiB: no log of a run.", file=display_name, line=number
            )
        if line.strip(_BLANK):
            return number, line
    return 0, b""


SOURCE = row_source("csv", "CSV or TSV with a header", sniff, read_table)
