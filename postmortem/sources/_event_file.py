"""One TensorBoard event file as columns of points: its framing, and its events many at once.

A file is a TFRecord file (tensorflow/core/lib/io/record_writer.h): for each event its length (uint64), the masked
CRC-32C of these eight bytes, the event, and its masked CRC-32C. Events of one length are read together, as a matrix of
bytes: most of them differ in step, time, value and tag only.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from postmortem.errors import UnreadableInput
from postmortem.run.rows import MOST_COLUMNS
from postmortem.run.thrift import Damaged
from postmortem.series import Steps, Values
from postmortem.small_file import open_regular
from postmortem.sources import _event_layout as layouts
from postmortem.sources._crc32c import masked_crc, masked_crcs
from postmortem.sources._event_layout import Bytes, EventLayout, Span, layout_of
from postmortem.text import count

VERSION = "brain.Event:"
_HEADER, _FOOTER = 12, 4  # bytes around an event
_BLOCK = 8 * 2**20  # bytes that are read at once; a longer event is no scalar
_CHECKED, _MANY = 256, 64  # the CRC is checked of shorter events, as scalars are, and of so many of one length
_MOST_LAYOUTS = 32  # of events of one length in a block; the others are read one by one
_MOST_HEADERS = 65_536  # different lengths, whose CRCs are remembered
_MOST_BY_HAND, _SLOWER = 2_000_000, 10  # values that are looked at one by one, and how much longer a scalar takes
_MOST_POINTS = 50_000_000  # 40 bytes each


@dataclass(frozen=True, slots=True, eq=False)
class EventPoints:
    """The scalars of a file in its order: tag int32[n] is an index into `tags`, time in unix seconds."""

    tag: NDArray[np.int32]
    step: Steps
    time: Values
    value: Values


@dataclass(slots=True)
class EventFile:
    """What is in a file. `started` is the time of its first event, `others` counts its values that are no scalars by
    kind, `session` says that it only describes hyperparameters; `name` names it in messages."""

    name: str
    tags: tuple[str, ...]
    points: EventPoints
    started: float
    others: Counter[str]
    notes: tuple[str, ...]

    @property
    def session(self) -> bool:
        """Whether it has a value of the plugin for hyperparameters: its scalars are those of a table of runs."""
        return any("hparams" in kind for kind in self.others)


class NoEventFile(UnreadableInput):
    """A file that has the name of an event file, and is none."""


def is_event_file(head: bytes) -> bool:
    """Whether a file that begins with `head` is in this format: an event with a valid length that says so."""
    length = _length(head[:_HEADER])
    if length is None or length > len(head) - _HEADER:
        return False
    return layouts.event_version(head[_HEADER : _HEADER + length]).startswith(VERSION)


def read_event_file(path: Path, name: str) -> EventFile:
    """Read all scalars; what cannot be read is told in notes.

    Raises:
        NoEventFile: it begins with something else.
        UnreadableInput: it is empty, or would take too much time or memory.
    """
    reader = _Reader(name)
    with open_regular(path, name) as file:
        head = file.read(_HEADER)
        if not head:
            raise UnreadableInput("the file is empty (0 bytes).", file=name)
        if _length(head) is None:
            raise NoEventFile(
                "is no TensorBoard event file: it does not begin with the length of an event.",
                file=name,
                hint="Was it copied as text, compressed, or is it a pointer of Git LFS? Copy it again, as binary.",
            )
        file.seek(0)
        for block in _blocks(file, reader):
            reader.add(*block)
    return reader.result()


def _length(header: bytes) -> int | None:
    """The length that a header tells; None where its CRC is another."""
    if len(header) < _HEADER or masked_crc(header[:8]) != int.from_bytes(header[8:], "little"):
        return None
    return int.from_bytes(header[:8], "little")


def _blocks(file: BinaryIO, reader: _Reader) -> Iterator[tuple[bytes, int, list[int], list[int]]]:
    """Yield (bytes, where they begin in the file, where events begin in them, lengths) until the file or its sound part
    ends."""
    size = os.fstat(file.fileno()).st_size
    lengths_of: dict[bytes, int] = {}
    base, rest = 0, b""
    while block := file.read(_BLOCK):
        data = rest + block
        starts, lengths, at, sound = _events_in(data, lengths_of)
        yield data, base, starts, lengths
        base, rest = base + at, data[at:]
        if not sound:
            reader.end_at(base, "has zeros instead of an event" if not any(rest[:256]) else "is damaged")
            return
        behind = base + _HEADER + lengths_of.get(rest[:_HEADER], 0) + _FOOTER
        if behind > size:
            break
        if behind - base > _BLOCK:
            reader.others["oversized event"] += 1
            base, rest = behind, b""
            file.seek(base)
    if rest:
        reader.end_at(base, "ends in the middle of an event")


def _events_in(data: bytes, lengths_of: dict[bytes, int]) -> tuple[list[int], list[int], int, bool]:
    """(where events begin, their lengths, the byte behind the last whole one, whether what follows can be an event).

    `lengths_of` remembers the lengths of headers whose CRC was checked."""
    starts: list[int] = []
    lengths: list[int] = []
    at, end = 0, len(data)
    while at + _HEADER <= end:
        header = data[at : at + _HEADER]
        length = lengths_of.get(header)
        if length is None:
            length = _length(header)
            if length is None:
                return starts, lengths, at, False
            if len(lengths_of) >= _MOST_HEADERS:
                lengths_of.clear()
            lengths_of[header] = length
        behind = at + _HEADER + length + _FOOTER
        if behind > end:
            break
        starts.append(at + _HEADER)
        lengths.append(length)
        at = behind
    return starts, lengths, at, True


@dataclass
class _Reader:
    """Collects the points of a file, block by block."""

    name: str
    others: Counter[str] = field(default_factory=Counter[str])
    _tags: dict[bytes, int] = field(default_factory=dict[bytes, int])
    _points: list[EventPoints] = field(default_factory=list[EventPoints])
    _notes: list[str] = field(default_factory=list[str])
    _started: float = np.nan
    _size: int = 0
    _events: int = 0
    _left_out: int = 0
    _first_left_out: int = 0
    _by_hand: int = 0
    _kept: int = 0
    _has_more_tags: bool = False

    def end_at(self, byte: int, why: str) -> None:
        """Note that the file ends or is unsound at a byte."""
        self._notes.append(f"{self.name}: {why} at byte {byte:,}: read up to there")

    def add(self, data: bytes, base: int, starts: list[int], lengths: list[int]) -> None:
        """Read the events of a block."""
        if not starts:
            return
        content = np.frombuffer(data, np.uint8)
        start, length = np.array(starts, np.int64), np.array(lengths, np.int64)
        if not self._events:
            self._started = float(layouts.times(*self._first(content, starts[0], lengths[0]))[0])
        order = np.argsort(length, kind="stable")
        parts: list[tuple[Steps, EventPoints]] = []
        for rows in np.split(order, np.flatnonzero(np.diff(length[order])) + 1):
            size = int(length[rows[0]])
            if size:
                parts += self._of_one_length(content, base, start, rows, size)
        self._events += start.size
        self._keep(parts)

    def _first(self, content: Bytes, start: int, length: int) -> tuple[Bytes, EventLayout]:
        event = content[start : start + length].reshape(1, -1)
        try:
            return event, layout_of(event.tobytes())
        except Damaged:
            return event, EventLayout(None, None, (), ())

    def _of_one_length(
        self, content: Bytes, base: int, start: Steps, rows: Steps, size: int
    ) -> Iterator[tuple[Steps, EventPoints]]:
        """Yield (the numbers of events in the block, their points) of all events of `size` bytes."""
        windows = np.lib.stride_tricks.sliding_window_view(content, size + _FOOTER)
        for first in range(0, rows.size, max(_BLOCK // size, 1)):
            part = rows[first : first + max(_BLOCK // size, 1)]
            framed = windows[start[part]]
            events = framed[:, :size]
            if size <= _CHECKED or part.size >= _MANY:
                sound = masked_crcs(events) == np.ascontiguousarray(framed[:, size:]).view("<u4")[:, 0]
                if not sound.all():
                    self._leave_out(base + start[part[~sound]] - _HEADER)
                    events, part = events[sound], part[sound]
            yield from self._laid_out(events, part, base + start[part] - _HEADER)

    def _laid_out(self, events: Bytes, rows: Steps, at: Steps) -> Iterator[tuple[Steps, EventPoints]]:
        """The same of events uint8[n, length] that begin at bytes `at` of the file: at once what is laid out alike."""
        for _ in range(_MOST_LAYOUTS):
            if not rows.size:
                return
            layout = self._layout(events[0].tobytes(), int(at[0]))
            same = np.zeros(rows.size, np.bool_)
            same[0] = True
            if layout.scalars and rows.size > 1:
                same = layout.alike(events)
            for points in self._points_of(events[same], layout):
                yield rows[same], points
            events, rows, at = events[~same], rows[~same], at[~same]
        for i in range(rows.size):
            layout = self._layout(events[i].tobytes(), int(at[i]))
            for points in self._points_of(events[i : i + 1], layout):
                yield rows[i : i + 1], points

    def _layout(self, event: bytes, at: int) -> EventLayout:
        """The layout of an event at byte `at` of the file: an empty one where it cannot be read."""
        try:
            layout = layout_of(event)
        except Damaged:
            self._leave_out(np.array([at]))
            return EventLayout(None, None, (), ())
        self.others.update(layout.others)
        self._by_hand += 1 + len(layout.others) + _SLOWER * len(layout.scalars)
        if self._by_hand > _MOST_BY_HAND:
            raise self._too_much("values are written in ever new ways")
        return layout

    def _points_of(self, events: Bytes, layout: EventLayout) -> Iterator[EventPoints]:
        """The points of each scalar of events that are laid out alike."""
        if not layout.scalars:
            return
        time, step = layouts.times(events, layout), layouts.steps(events, layout)
        self._kept += step.size * len(layout.scalars)
        if self._kept > _MOST_POINTS:
            raise self._too_much(f"more than {_MOST_POINTS:,} points")
        for scalar in layout.scalars:
            tag = self._tag_numbers(events, scalar.tag)
            points = EventPoints(tag, step, time, layouts.values(events, scalar))
            yield points

    def _tag_numbers(self, events: Bytes, span: Span) -> NDArray[np.int32]:
        """The number of the tag that stands in these bytes of each event: int32[n], -1 beyond `MOST_COLUMNS` tags."""
        size = span[1] - span[0]
        joined = events[:, span[0] : span[1]].tobytes()
        names = [joined[i : i + size] for i in range(0, len(joined), size)] if size else [b""] * events.shape[0]
        for name in dict.fromkeys(names):
            if name not in self._tags:
                if len(self._tags) < MOST_COLUMNS:
                    self._tags[name] = len(self._tags)
                else:
                    self._has_more_tags = True
        numbers = self._tags
        if self._has_more_tags:
            return np.fromiter((numbers.get(name, -1) for name in names), np.int32, len(names))
        return np.fromiter(map(numbers.__getitem__, names), np.int32, len(names))

    def _keep(self, parts: list[tuple[Steps, EventPoints]]) -> None:
        """Append the points of a block, in the order of its events."""
        if not parts:
            return
        order = np.argsort(np.concatenate([rows for rows, _ in parts]), kind="stable")
        points = _joined([points for _, points in parts])
        self._points.append(_taken(points, order[points.tag[order] >= 0] if self._has_more_tags else order))

    def _leave_out(self, at: Steps) -> None:
        if not self._left_out:
            self._first_left_out = int(at.min())
        self._left_out += at.size

    def _too_much(self, what: str) -> UnreadableInput:
        return UnreadableInput(
            f"{what}: that is more than is read of one file.",
            file=self.name,
            hint="Log fewer values, or write the ones that matter into a CSV: one row a step.",
        )

    def result(self) -> EventFile:
        """All that was read."""
        notes = list(self._notes)
        if self._left_out:
            notes.append(
                f"{self.name}: {count(self._left_out, 'damaged event')} "
                f"{'was' if self._left_out == 1 else 'were'} left out, the first at byte {self._first_left_out:,}"
            )
        if self._has_more_tags:
            notes.append(f"{self.name}: tags beyond the first {MOST_COLUMNS:,} were ignored")
        tags = tuple(name.decode(errors="replace") for name in self._tags)
        return EventFile(self.name, tags, _joined(self._points), self._started, self.others, tuple(notes))


def _joined(parts: Sequence[EventPoints]) -> EventPoints:
    def all_of(name: str, dtype: str) -> NDArray[Any]:
        return np.concatenate([np.zeros(0, dtype), *(getattr(points, name) for points in parts)])

    return EventPoints(all_of("tag", "i4"), all_of("step", "i8"), all_of("time", "f8"), all_of("value", "f8"))


def _taken(points: EventPoints, rows: NDArray[np.intp]) -> EventPoints:
    return EventPoints(points.tag[rows], points.step[rows], points.time[rows], points.value[rows])
