"""JSON rows, one object a line, into columns: the live tails of a run directory and other tools' JSONL logs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from postmortem.errors import UnreadableInput
from postmortem.run.naming import STEP_NAMES, is_label, normal
from postmortem.run.values import Cells, cells_of
from postmortem.text import plain

CHUNK_ROWS = 65_536
MOST_COLUMNS = 4_096
_CELLS_HELD = 4_000_000
_LINE_LIMIT = 64 * 2**20


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows as columns of equal length; a column that no row has is absent."""

    rows: int
    columns: Mapping[str, Cells]


@dataclass
class Collector:
    """Rows of Python values in, chunks of columns out, at most `CHUNK_ROWS` rows being held as Python objects."""

    labels: frozenset[str] = frozenset()
    chunks: list[Chunk] = field(default_factory=list[Chunk])
    dropped: dict[str, int] = field(default_factory=dict[str, int])
    ignored: set[str] = field(default_factory=set[str])
    spelled: dict[str, None] = field(default_factory=dict[str, None])
    rows: int = 0
    _known: set[str] = field(default_factory=set[str])
    _held: list[Mapping[str, object]] = field(default_factory=list[Mapping[str, object]])

    def add(self, row: Mapping[str, object]) -> None:
        """Append one row; nested objects are flattened one level with `/`, deeper ones ignored."""
        if dict in set(map(type, row.values())):
            row = _flat(row)
        if not row.keys() <= self._known:
            row = self._within_limit(row)
        self._held.append(row)
        self.rows += 1
        if len(self._held) >= CHUNK_ROWS or len(self._held) * len(self._known) > _CELLS_HELD:
            self.flush()

    def _within_limit(self, row: Mapping[str, object]) -> Mapping[str, object]:
        """Learn the row's new column names; once there are `MOST_COLUMNS`, further ones are ignored."""
        for name in row:
            if len(self._known) < MOST_COLUMNS:
                self._known.add(name)
            elif name not in self._known:
                self.ignored.add(name)
        return row if row.keys() <= self._known else {name: v for name, v in row.items() if name in self._known}

    def notes(self, shown: str) -> list[str]:
        """What was read around, one sentence each."""
        notes = dropped_notes(shown, self.dropped)
        notes += [
            f"{shown}: column {plain(name, 60)} counts steps in text or with a decimal point: read as whole numbers"
            for name in self.spelled
        ]
        if self.ignored:
            notes.append(f"{shown}: columns beyond the first {MOST_COLUMNS} were ignored")
        return notes

    def flush(self) -> None:
        """Turn the rows that are held into a chunk."""
        if not self._held:
            return
        columns: dict[str, Cells] = {}
        for name in dict.fromkeys(chain.from_iterable(self._held)):
            values = [row.get(name) for row in self._held]
            label = name in self.labels or is_label(name)
            columns[name], dropped = cells_of(values, label=label)
            if normal(name) in STEP_NAMES and {str, float} & set(map(type, values)):
                self.spelled.setdefault(name)
            if dropped:
                self.dropped[name] = self.dropped.get(name, 0) + dropped
        self.chunks.append(Chunk(len(self._held), columns))
        self._held.clear()


def _flat(row: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{inner}": v for inner, v in value.items() if not isinstance(v, dict)}
        else:
            flat[name] = value
    return flat


@dataclass
class Lines:
    """What a pass over a JSONL file found besides its objects: bad lines, whether the last one is torn."""

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
            what = "line that is" if self.bad == 1 else "lines that are"
            notes.append(f"{self.file}:{self.first_bad}: {self.bad} {what} no JSON object ({self.why}) skipped")
        return notes

    def spoiled(self, number: int, why: str) -> None:
        """Count a line that holds no object."""
        if not self.bad:
            self.first_bad, self.why = number, why
        self.bad += 1


def read_objects(path: Path, lines: Lines, *, strict_text: bool) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (line number, object) of every line that holds a JSON object; count the others in `lines`.

    Raises:
        UnreadableInput: with `strict_text`, a line that is not UTF-8, unless it is the torn last one.
    """
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(_LINE_LIMIT):
            number += 1
            ended = raw.endswith(b"\n")
            if not ended and len(raw) == _LINE_LIMIT:
                while (rest := file.readline(_LINE_LIMIT)) and not rest.endswith(b"\n"):
                    pass
                lines.spoiled(number, f"longer than {_LINE_LIMIT >> 20} MiB")
                continue
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if not raw.strip():
                continue
            try:
                value = parse_json(raw.decode())
            except UnicodeDecodeError as error:
                if strict_text and ended:
                    raise UnreadableInput("not UTF-8 text.", file=lines.file, line=number) from error
                value, why = None, "not UTF-8"
            except (ValueError, RecursionError) as error:
                value, why = None, plain(error, 60) if isinstance(error, ValueError) else "nested too deeply"
            else:
                why = f"a JSON {type(value).__name__}"
            if isinstance(value, dict):
                lines.good += 1
                yield number, value
            elif ended:
                lines.spoiled(number, why)
            else:
                lines.torn = number


def parse_json(text: str) -> object:
    """`json.loads` that also takes integers of more digits than Python converts, as floats: large, or infinite."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(text, parse_int=float)


def read_jsonl(
    path: Path, shown: str, *, strict_text: bool, labels: frozenset[str] = frozenset()
) -> tuple[list[Chunk], list[str]]:
    """All rows of a JSONL file as chunks, with notes on what was read around. `shown` names the file in messages."""
    lines = Lines(shown)
    collector = Collector(labels)
    for _, row in read_objects(path, lines, strict_text=strict_text):
        collector.add(row)
    collector.flush()
    if strict_text and not lines.good:
        what = f"no line is a JSON object ({lines.why})." if lines.bad else "no complete line."
        raise UnreadableInput(what, file=shown, line=lines.first_bad or None)
    return collector.chunks, lines.notes() + collector.notes(shown)


def dropped_notes(shown: str, dropped: Mapping[str, int]) -> list[str]:
    """One sentence a column whose unreadable cells were taken as not logged."""
    return [
        f"{shown}: {count} cell{'s' if count > 1 else ''} of column {plain(name, 60)} "
        f"{'are' if count > 1 else 'is'} no number and taken as not logged"
        for name, count in dropped.items()
    ]
