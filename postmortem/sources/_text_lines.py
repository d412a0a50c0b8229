"""Reads the metric lines of a text log, whatever else it contains, block by block.

    block ── words for a loss ──▶ lines ──▶ the pattern of a shape that was seen before ──▶ numbers, as arrays
                                      └──▶ pair by pair, once for each shape (`_text_pairs`)

Most lines of a large log have the shape of one before: a regular expression with a group for each number reads those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from postmortem.dialects import Dialect, dialects, dialects_of
from postmortem.errors import UnreadableInput
from postmortem.run.rows import MOST_COLUMNS, Chunk
from postmortem.run.values import Mask, Numbers
from postmortem.series import Steps, Values
from postmortem.sources._text_pairs import LONGEST_LINE, Line, meaning, read_line, shape_of

BLOCK = 2**20
"""Bytes that are searched at once."""

_MOST_SHAPES = 48
"""Patterns that a line is compared with; lines of further shapes are read pair by pair."""

_KEYWORDS = (b"loss", b"Loss", b"LOSS", b"nll", b"NLL", b"ntropy", b"rad_norm", b"rad norm", b"Epoch ")
_SETTLED = 64 * 2**20
"""Bytes of a log with metric lines after which a keyword that never stood in it is searched for no longer: each costs
half a millisecond for every mebibyte."""

_MOST_SLOWLY_READ = 24 * 2**20
"""Bytes of lines that are read pair by pair, within ten seconds; a line without pairs takes four times as long."""

_MOST_SMALL = 64  # arrays of one block each

_ANSI = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")
_BREAKS = re.compile(rb"[\r\x08]+")
_COUNTS = frozenset((None, "step", "epoch", "time", "rank", "attempt", "step_time_s", "tokens_per_s"))


@dataclass
class _Rows:
    """The lines with these keys: where each begins in the file, and their numbers, one array a block and key; of the
    first `joined` of these, each is of many blocks."""

    keys: tuple[str, ...]
    offsets: list[Steps] = field(default_factory=list[Steps])
    values: list[list[Values]] = field(default_factory=list[list[Values]])
    pending_offsets: list[int] = field(default_factory=list[int])
    pending: list[tuple[bytes, ...]] = field(default_factory=list[tuple[bytes, ...]])
    joined: int = 0

    def add(self, offset: int, numbers: tuple[bytes, ...]) -> None:
        self.pending_offsets.append(offset)
        self.pending.append(numbers)

    def flush(self) -> None:
        if self.pending:
            self.offsets.append(np.array(self.pending_offsets, np.int64))
            self.values.append([_numbers(column) for column in zip(*self.pending, strict=True)])
            self.pending_offsets.clear()
            self.pending.clear()
        if len(self.offsets) - self.joined > _MOST_SMALL:
            self._join()

    def _join(self) -> None:
        """Make one array of those of the last blocks: memory of many small ones does not go back to the system."""
        first = self.joined
        columns = zip(*self.values[first:], strict=True)
        self.values[first:] = [[np.concatenate(column) for column in columns]]
        self.offsets[first:] = [np.concatenate(self.offsets[first:])]
        self.joined += 1

    def take(self, n: int) -> Values:
        """The numbers of the n-th key, float64[lines]; they are not kept here."""
        column = np.concatenate([block[n] for block in self.values])
        for block in self.values:
            block[n] = _TAKEN
        return column


_TAKEN = np.zeros(0)


def _numbers(column: tuple[bytes, ...]) -> Values:
    try:
        return np.array(list(map(float, column)), np.float64)
    except ValueError:  # thousands are grouped by commas
        return np.array([float(text.replace(b",", b"")) for text in column], np.float64)


class MetricLines:
    """The metric lines of a text log, found in blocks that come in order.

    `keywords` are further words that a metric line may contain, such as the name of a column in --map. `skipped`
    counts lines that would have taken too long, `dialects` are those of its lines.
    """

    def __init__(self, keywords: Iterable[str] = ()) -> None:
        own = [word for dialect in dialects() for word in dialect.keywords]
        self._keywords = tuple(dict.fromkeys((*_KEYWORDS, *own, *(word.encode() for word in keywords))))
        self._asked = frozenset(keywords)
        self._seen = set[bytes]()
        self._shapes: list[tuple[re.Pattern[bytes], _Rows]] = []
        self._rows: dict[tuple[str, ...], _Rows] = {}
        self._names: set[str] = set()
        self._slowly_read = 0
        self._has_heads = False
        self.skipped = 0
        self.dialects: list[Dialect] = []

    def add(self, block: bytes, offset: int) -> None:
        """Read a block of whole lines, which begins at byte `offset` of the file."""
        if b"\x1b" in block:
            block = _ANSI.sub(b"", block)
        if b"\r" in block or b"\x08" in block:
            block = _BREAKS.sub(b"\n", block)
        if not block.endswith(b"\n"):
            block += b"\n"
        at = 0
        after = dict.fromkeys(self._keywords, -1)  # where each stands next
        while at < len(block):
            if self._shapes and (match := self._shapes[0][0].match(block, at)) is not None:
                self._shapes[0][1].add(offset + at, match.groups())
                at = match.end()
            elif (start := self._next_line(block, at, after)) is not None:
                at = self._read(block, start, offset)
            else:
                break
        for rows in self._rows.values():
            rows.flush()
        if offset > _SETTLED and self._rows:
            self._keywords = tuple(word for word in self._keywords if word in self._seen)

    @property
    def rows(self) -> int:
        """How many metric lines there are, without those that only count."""
        return sum(
            part.size
            for rows in self._rows.values()
            if not {self._meaning(key) for key in rows.keys} <= {"step", "epoch"}
            for part in rows.offsets
        )

    def _next_line(self, block: bytes, at: int, after: dict[bytes, int]) -> int | None:
        """Where the next line begins that contains a keyword; `after` says where each stands next, and is kept so."""
        for word, before in after.items():
            if before < at:
                place = block.find(word, at)
                after[word] = len(block) if place < 0 else place
                if place >= 0:
                    self._seen.add(word)
        nearest = min(after.values())
        return None if nearest == len(block) else block.rfind(b"\n", at, nearest) + 1 or at

    def _read(self, block: bytes, start: int, offset: int) -> int:
        """Read the line that begins at `start`; where the next one does."""
        for n, (pattern, rows) in enumerate(self._shapes):
            match = pattern.match(block, start)
            if match is not None:
                rows.add(offset + start, match.groups())
                self._shapes.insert(0, self._shapes.pop(n))
                return match.end()
        end = block.find(b"\n", start)
        self._learn(block[start:end], offset + start)
        return end + 1

    def _learn(self, line: bytes, offset: int) -> None:
        if len(line) > LONGEST_LINE or self._slowly_read > _MOST_SLOWLY_READ:
            self.skipped += 1
            return
        read = read_line(line)
        self._slowly_read += len(line) if read.keys else 4 * len(line)
        if self._is_head(read):
            self._has_heads = True
            counts = [n for n, key in enumerate(read.keys) if self._meaning(key) in ("step", "epoch")]
            read = Line(tuple(read.keys[n] for n in counts), tuple(read.spans[n] for n in counts))
        elif not self._is_metric(read, indented=line[:1] in b" \t"):
            return
        if read.keys not in self._rows:
            if len(self._names | set(read.keys)) > MOST_COLUMNS:
                return
            self._names.update(read.keys)
            self._rows[read.keys] = _Rows(read.keys)
        rows = self._rows[read.keys]
        rows.add(offset, tuple(line[start:end] for start, end in read.spans))
        if len(self._shapes) < _MOST_SHAPES:
            self._shapes.append((re.compile(shape_of(line, read)), rows))

    def _is_metric(self, line: Line, *, indented: bool) -> bool:
        """Whether a key is known as a loss, or as another metric beside one that counts, or `indented` below a head."""
        self.dialects += [dialect for dialect in dialects_of(line.keys) if dialect not in self.dialects]
        known = {self._meaning(key) for key in line.keys}
        metrics = known - _COUNTS
        if metrics & {"loss", "eval_loss"}:
            return True
        counted = not known.isdisjoint({"step", "epoch"}) or (indented and self._has_heads)
        return counted and (bool(metrics) or not self._asked.isdisjoint(line.keys))

    def _is_head(self, line: Line) -> bool:
        """Whether it counts and measures nothing: `Epoch 1/10` above a progress bar, `[step=10]` above a block."""
        known = {self._meaning(key) for key in line.keys}
        return not known.isdisjoint({"step", "epoch"}) and not known - _COUNTS

    def _meaning(self, key: str) -> str | None:
        return next((d.columns[key] for d in self.dialects if key in d.columns), None) or meaning(key)

    def chunk(self) -> Chunk:
        """All rows in the order of the file, as columns. A line that counts nothing has the step, and the epoch, of
        the last line before it that does; lines that only count are no rows. The lines are gone then."""
        groups = list(self._rows.values())
        if len(groups) == 1:
            columns = {key: Numbers(groups[0].take(n), None) for n, key in enumerate(groups[0].keys)}
            return Chunk(next(iter(columns.values())).value.size, columns)
        columns = dict[str, Numbers]()
        places = _places([rows.offsets for rows in groups])
        total = sum(of_group.size for of_group in places)
        means = {key: self._meaning(key) for rows in groups for key in rows.keys}
        kept, inherits = np.ones(total, np.bool_), {name: np.zeros(total, np.bool_) for name in ("step", "epoch")}
        for rows, of_group in zip(groups, places, strict=True):
            for n, key in enumerate(rows.keys):
                if key not in columns:
                    columns[key] = Numbers(np.full(total, np.nan), np.zeros(total, np.bool_))
                value, logged = columns[key].value, columns[key].logged
                assert logged is not None
                value[of_group], logged[of_group] = rows.take(n), True
            known = {means[key] for key in rows.keys}
            kept[of_group] = not known <= {"step", "epoch"}
            inherits["step"][of_group] = "step" not in known
            inherits["epoch"][of_group] = "epoch" not in known and ("step" not in known or "batch" in rows.keys)
        for name, rows_without in inherits.items():
            counters = sorted((columns[key] for key, known in means.items() if known == name), key=lambda c: c.nulls)
            for other in counters[1:]:
                _fill(counters[0], other)
            if counters:
                _carry_forward(counters[0], rows_without)
        return Chunk(int(kept.sum()), {key: _of_rows(column, kept) for key, column in columns.items()})


def _places(offsets: Sequence[Sequence[Steps]]) -> list[Steps]:
    """For each group of lines, which row each of its lines is, by where they begin in the file."""
    joined = [np.concatenate(of_group) for of_group in offsets]
    place = np.empty(sum(of_group.size for of_group in joined), np.int64)
    place[np.argsort(np.concatenate(joined), kind="stable")] = np.arange(place.size)
    return np.split(place, np.cumsum([of_group.size for of_group in joined])[:-1])


def _fill(column: Numbers, other: Numbers) -> None:
    """Give the rows without a value that of another column: evaluations may call the same count otherwise."""
    assert column.logged is not None and other.logged is not None
    rows = np.flatnonzero(other.logged & ~column.logged)
    column.value[rows], column.logged[rows] = other.value[rows], True


def _carry_forward(column: Numbers, rows: Mask) -> None:
    """Give `rows` without a value that of the last row before them that has one."""
    logged = column.logged
    assert logged is not None
    last = np.maximum.accumulate(np.where(logged, np.arange(logged.size), -1))
    places = np.flatnonzero(rows & ~logged & (last >= 0))
    column.value[places], logged[places] = column.value[last[places]], True


def _of_rows(column: Numbers, kept: Mask) -> Numbers:
    value, logged = column.value, column.logged
    assert logged is not None
    if not kept.all():
        value, logged = value[kept], logged[kept]
    return Numbers(value, None if logged.all() else logged)


def blocks_of(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """(offset, whole lines) of a text file, some `BLOCK` bytes each; a line that is longer is cut.

    Raises:
        UnreadableInput: binary data.
    """
    offset, rest = 0, b""
    while data := file.read(BLOCK):
        if b"\0" in data:
            raise UnreadableInput("binary data, not text.", file=name)
        data = rest + data
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1 or (len(data) if len(data) >= BLOCK else 0)
        block, rest = data[:end], data[end:]
        if block:
            yield offset, block
        offset += len(block)
    if rest:
        yield offset, rest
