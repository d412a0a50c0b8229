"""JSON rows, one object per line, as columns: the live tails of a run directory and other tools' JSONL logs."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from postmortem.errors import UnreadableInput
from postmortem.run.naming import STEP_NAMES, is_label, normal
from postmortem.run.values import Cells, cells_of
from postmortem.small_file import open_regular, parse_json
from postmortem.text import count, plain

CHUNK_ROWS = 65_536
"""Rows of a chunk: enough for arrays to be fast, few enough to be kept as Python objects until then."""

MOST_COLUMNS = 4_096
"""Columns of a log that are read: a hostile log could name a new one in every row."""

_MOST_PENDING_CELLS = 4_000_000
"""Cells kept as Python objects at most, some 100 bytes each."""

_MOST_EMPTY_CELLS, _MOST_EMPTY_SHARE = 40_000_000, 20
"""So many cells may be empty in any log, nine bytes each; in a larger one, so many for each that is not."""

_LINE_LIMIT = 64 * 2**20
"""Bytes of a line that is still read as JSON."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows as columns of equal length; a column that no row has is absent."""

    rows: int
    columns: Mapping[str, Cells]


@dataclass
class Collector:
    """Rows of Python values in, chunks of columns out; at most `CHUNK_ROWS` rows are kept as Python objects.

    `dropped` counts the unreadable cells by column, `ignored` says that there were columns beyond `MOST_COLUMNS`,
    `spelled` are step columns whose values are text or have a decimal point. `file` names the file in messages.
    """

    labels: frozenset[str] = frozenset()
    chunks: list[Chunk] = field(default_factory=list[Chunk])
    dropped: dict[str, int] = field(default_factory=dict[str, int])
    ignored: bool = False
    spelled: dict[str, None] = field(default_factory=dict[str, None])
    rows: int = 0
    file: str = ""
    _cells: int = 0
    _given: int = 0
    _names: set[str] = field(default_factory=set[str])
    _pending: list[Mapping[str, object]] = field(default_factory=list[Mapping[str, object]])

    def add(self, row: Mapping[str, object]) -> None:
        """Append one row; nested objects are flattened one level with `/`, deeper ones ignored."""
        if dict in set(map(type, row.values())):
            row = _flat(row)
        if not row.keys() <= self._names:
            row = self._within_limit(row)
        self._pending.append(row)
        self.rows += 1
        if len(self._pending) >= CHUNK_ROWS or len(self._pending) * len(self._names) > _MOST_PENDING_CELLS:
            self.flush()

    def _within_limit(self, row: Mapping[str, object]) -> Mapping[str, object]:
        """Learn the row's new column names; once there are `MOST_COLUMNS`, further ones are ignored."""
        for name in row:
            if len(self._names) < MOST_COLUMNS:
                self._names.add(name)
            elif name not in self._names:
                self.ignored = True
        return row if row.keys() <= self._names else {name: v for name, v in row.items() if name in self._names}

    def notes(self, display_name: str) -> list[str]:
        """One sentence about each kind of thing that could not be read."""
        notes = dropped_notes(display_name, self.dropped)
        notes += [
            f"{display_name}: column {plain(name, 60)} counts steps in text or with a decimal point: "
            "its whole numbers are read"
            for name in self.spelled
        ]
        if self.ignored:
            notes.append(f"{display_name}: columns beyond the first {MOST_COLUMNS} were ignored")
        return notes

    def flush(self) -> None:
        """Turn the pending rows into a chunk."""
        if not self._pending:
            return
        columns: dict[str, Cells] = {}
        names = dict.fromkeys(chain.from_iterable(self._pending))
        self._check_memory(len(names))
        for name in names:
            values = [row.get(name) for row in self._pending]
            label = name in self.labels or is_label(name)
            columns[name], dropped = cells_of(values, label=label)
            if normal(name) in STEP_NAMES and {str, float} & set(map(type, values)):
                self.spelled.setdefault(name)
            if dropped:
                self.dropped[name] = self.dropped.get(name, 0) + dropped
        self.chunks.append(Chunk(len(self._pending), columns))
        self._pending.clear()

    def _check_memory(self, names: int) -> None:
        """Count the cells of the pending rows: each takes its place in an array, whether a row has it or not.

        Raises:
            UnreadableInput: they are many, and nearly all of them empty.
        """
        self._cells += len(self._pending) * names
        self._given += sum(map(len, self._pending))
        if self._cells > max(_MOST_EMPTY_CELLS, _MOST_EMPTY_SHARE * self._given):
            raise UnreadableInput(
                f"{self.rows:,} rows have {len(self._names):,} columns, but {self._given / self.rows:.3g} on average: "
                "no log of a run.",
                file=self.file or None,
                hint="Write the columns that belong together into one row.",
            )


def _flat(row: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{inner}": v for inner, v in value.items() if not isinstance(v, dict)}
        else:
            flat[name] = value
    return flat


@dataclass
class LineReport:
    """What a pass over a JSONL file met besides its objects: bad lines, and whether the last line is torn.

    `file` names the file in messages; `why` is the reason of the first bad line; `torn` is the number of a torn last
    line, 0 where it is whole."""

    file: str
    good: int = 0
    bad: int = 0
    first_bad: int = 0
    why: str = ""
    torn: int = 0

    def notes(self) -> list[str]:
        """One sentence for a torn last line, one for all bad lines."""
        notes: list[str] = []
        if self.torn:
            notes.append(f"{self.file}:{self.torn}: the last line is torn and was skipped")
        if self.bad:
            skipped = f"{count(self.bad, 'line')} {'was' if self.bad == 1 else 'were'} skipped"
            notes.append(f"{self.file}:{self.first_bad}: {skipped}: no JSON object ({self.why})")
        return notes

    def add_bad(self, number: int, why: str) -> None:
        """Count a line that contains no object."""
        if not self.bad:
            self.first_bad, self.why = number, why
        self.bad += 1


def read_objects(path: Path, lines: LineReport, *, strict_text: bool) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (line number, object) of every line that contains a JSON object; count the other lines in `lines`.

    Raises:
        UnreadableInput: no regular file; with `strict_text`, a line that is not UTF-8, unless it is the torn last one.
    """
    return ((number, value) for number, _, value in read_object_lines(path, lines, strict_text=strict_text))


def read_object_lines(
    path: Path, lines: LineReport, *, strict_text: bool
) -> Iterator[tuple[int, bytes, dict[str, object]]]:
    """The same with the bytes of each line: (line number, line, object)."""
    with open_regular(path, lines.file) as file:
        for number, raw in _read_lines(file, lines):
            ended = raw.endswith(b"\n")
            try:
                value = parse_json(raw.decode(), round_integers=True)
            except UnicodeDecodeError as error:
                if strict_text and ended:
                    raise UnreadableInput("not UTF-8 text.", file=lines.file, line=number) from error
                value, why = None, "not UTF-8"
            except ValueError as error:
                value, why = None, plain(error, 60)
            else:
                why = f"a JSON {type(value).__name__}"
            if isinstance(value, dict):
                lines.good += 1
                yield number, raw, value
            elif ended:
                lines.add_bad(number, why)
            else:
                lines.torn = number


def _read_lines(file: BinaryIO, lines: LineReport) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of every line that is neither empty nor too long, without a byte order mark."""
    number = 0
    while raw := file.readline(_LINE_LIMIT):
        number += 1
        if len(raw) == _LINE_LIMIT and not raw.endswith(b"\n"):
            while (rest := file.readline(_LINE_LIMIT)) and not rest.endswith(b"\n"):
                pass
            lines.add_bad(number, f"longer than {_LINE_LIMIT >> 20} MiB")
            continue
        line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        if line.strip():
            yield number, line


def read_jsonl(
    path: Path, display_name: str, *, strict_text: bool, labels: frozenset[str] = frozenset()
) -> tuple[list[Chunk], list[str]]:
    """(chunks of all rows of a JSONL file, notes on what could not be read). `display_name` names the file in messages.

    Raises:
        UnreadableInput: with `strict_text`, a line that is not UTF-8, or no line that is a JSON object.
    """
    lines = LineReport(display_name)
    collector = Collector(labels, file=display_name)
    for _, row in read_objects(path, lines, strict_text=strict_text):
        collector.add(row)
    collector.flush()
    if strict_text and not lines.good:
        reason = f"no line is a JSON object ({lines.why})." if lines.bad else "no complete line."
        raise UnreadableInput(reason, file=display_name, line=lines.first_bad or None)
    return collector.chunks, lines.notes() + collector.notes(display_name)


def dropped_notes(display_name: str, dropped: Mapping[str, int]) -> list[str]:
    """One sentence for each column whose unreadable cells were read as not logged."""
    return [
        f"{display_name}: {count(cells, 'cell')} of column {plain(name, 60)} "
        f"{'is' if cells == 1 else 'are'} no number: read as not logged"
        for name, cells in dropped.items()
    ]
