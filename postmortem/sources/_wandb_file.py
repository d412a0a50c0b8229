"""A `.wandb` file: the rows that were logged, and what the run says about itself.

A header of seven bytes, then the log format of LevelDB (https://github.com/google/leveldb, doc/log_format.md): blocks
of 32 KiB with chunks, each a CRC-32 of its type and data, a length and a type; a record is one chunk or several. It is
a message `Record` of wandb/proto/wandb_internal.proto; the history, the run, its config and its end are read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from postmortem.errors import UnreadableInput
from postmortem.run.naming import is_label
from postmortem.run.rows import Collector
from postmortem.run.thrift import Damaged
from postmortem.small_file import open_regular, parse_json
from postmortem.sources._wire import BYTES, VARINT, fields, varint
from postmortem.text import count

MAGIC = b":W&B\xe1\xbe"
_HEADER, _BLOCK, _CHUNK_HEADER = 7, 32 * 2**10, 7  # bytes
_LOST, _FULL, _FIRST, _MIDDLE, _LAST = 0, 1, 2, 3, 4
_LONGEST = 16 * 2**20  # bytes of a record; a row of numbers has a few thousand
_MOST_SETTINGS = 10_000
_DIGITS = 19  # of integers that fit into 64 bits
_HISTORY, _CONFIG, _RUN, _EXIT = 2, 5, 17, 18  # fields of Record
_KEY, _NESTED_KEY, _VALUE_JSON = 1, 2, 16  # fields of HistoryItem and ConfigItem
_QUICK_KEYS, _QUICK_VALUE, _SHORTEST = b"\x0a\x12", b"\x82\x01", 5
"""How an item begins and goes on whose name and value are shorter than 128 bytes."""

_BOOLEAN, _INTEGER, _NUMBER, _TEXT, _JSON = 4, 5, 6, 7, 8
STEP = "_step"


@dataclass
class WandbFile:
    """What one or more files of a run say beside its rows; `status` is None where they do not say that it ended."""

    run_id: str = ""
    display_name: str = ""
    config: dict[str, object] = field(default_factory=dict[str, object])
    status: int | None = None
    notes: list[str] = field(default_factory=list[str])


def read_wandb_file(path: Path, name: str, rows: Collector, about: WandbFile) -> None:
    """Add the rows of a file to `rows`, and what it says about the run to `about`. `name` names it in messages.

    Raises:
        UnreadableInput: no W&B file.
    """
    report = _Report(name)
    about.status = None
    others = 0
    with open_regular(path, name) as file:
        header = file.read(_HEADER)
        if not header:
            raise UnreadableInput("the file is empty (0 bytes).", file=name)
        if not header.startswith(MAGIC) or len(header) < _HEADER:
            raise UnreadableInput("is no W&B file: it does not begin with its mark.", file=name)
        for record, at in _records(file, report):
            try:
                others += _read_record(record, rows, about)
            except Damaged:
                report.leave_out(at)
    about.notes += report.notes()
    if others:
        about.notes.append(f"{name}: {count(others, 'value')} that {'is' if others == 1 else 'are'} no number or text "
                           "(tables, images, lists) ignored")  # fmt: skip


@dataclass
class _Report:
    name: str
    end: str = ""
    left_out: int = 0
    first: int = 0

    def end_at(self, at: int) -> None:
        """The file is cut in the part that begins at byte `at`."""
        self.end = f"{self.name}: ends in the middle of a record at byte {at:,}: read up to there"

    def leave_out(self, at: int) -> None:
        """Count a part that cannot be read, which begins at byte `at`."""
        if not self.left_out:
            self.first = at
        self.left_out += 1

    def notes(self) -> list[str]:
        """One sentence each for what is damaged and for a torn end."""
        notes = [self.end] if self.end else []
        if self.left_out:
            was = "was" if self.left_out == 1 else "were"
            notes.append(
                f"{self.name}: {count(self.left_out, 'damaged part')} {was} left out, the first at byte {self.first:,}"
            )
        return notes


def _records(file: BinaryIO, report: _Report) -> Iterator[tuple[bytes, int]]:
    """Yield (record, the byte at which it begins) up to the end, or to where the file is cut."""
    begun: list[bytes] = []
    start = size = 0
    for kind, data, at in _chunks(file, report):
        if kind == _FULL:
            yield data, at
        if kind == _FIRST:
            start, size = at, 0
        if kind not in (_MIDDLE, _LAST):
            begun = []
        if kind == _FIRST or begun:
            begun.append(data)
            size += len(data)
        if size > _LONGEST and begun:
            report.leave_out(start)
            begun = []
        if kind == _LAST and begun:
            yield b"".join(begun), start
            begun = []
    if begun and not report.end:
        report.end_at(start)


def _chunks(file: BinaryIO, report: _Report) -> Iterator[tuple[int, bytes, int]]:
    """Yield (type, data, where it begins) of each chunk; type `_LOST` where one is damaged, and the rest of its block
    with it."""
    base, at = 0, _HEADER
    file.seek(0)
    while block := file.read(_BLOCK):
        while at + _CHUNK_HEADER <= len(block):
            head, data_at = block[at : at + _CHUNK_HEADER], at + _CHUNK_HEADER
            behind = data_at + int.from_bytes(head[4:6], "little")
            if not any(head):
                break  # zeros up to the end of the block
            if behind > len(block) < _BLOCK:
                report.end_at(base + at)
                return
            data = block[data_at:behind]
            if behind > len(block) or zlib.crc32(data, zlib.crc32(head[6:])) != int.from_bytes(head[:4], "little"):
                report.leave_out(base + at)
                yield _LOST, b"", base + at
                break
            yield head[6], data, base + at
            at = behind
        if len(block) < _BLOCK and at + _CHUNK_HEADER > len(block) > at:
            report.end_at(base + at)
        base, at = base + len(block), 0


def _read_record(record: bytes, rows: Collector, about: WandbFile) -> int:
    """Read one record; the number of its values that are neither numbers nor text."""
    for number, kind, start, end in fields(record, 0, len(record)):
        if kind != BYTES:
            continue
        if number == _HISTORY:
            return _read_history(record, start, end, rows)
        if number == _CONFIG:
            _read_config(record, start, end, about)
        elif number == _RUN:
            _read_run(record, start, end, about)
        elif number == _EXIT:
            about.status = _first_number(record, start, end) & 0xFFFF_FFFF
    return 0


def _read_history(record: bytes, at: int, end: int, rows: Collector) -> int:
    row: dict[str, object] = {}
    step: int | None = None
    others = 0
    for number, kind, start, stop in fields(record, at, end):
        if kind != BYTES:
            continue
        if number == 1:
            name, value = _item(record, start, stop)
            if isinstance(value, (int, float, str, type(None))) or (isinstance(value, list) and is_label(name)):
                row[name] = value
            else:
                others += 1
        elif number == 2:
            step = _first_number(record, start, stop)
    if step is not None:
        row.setdefault(STEP, step)
    if row:
        rows.add(row)
    return others


def _first_number(record: bytes, at: int, end: int) -> int:
    """Field 1 of a message, which is a number; 0, which is not written, where it is absent."""
    return next(
        (
            varint(record, start, stop)[0]
            for n, kind, start, stop in fields(record, at, end)
            if (n, kind) == (1, VARINT)
        ),
        0,
    )


def _item(record: bytes, at: int, end: int) -> tuple[str, object]:
    """(name, value) of an item of the history or the config; the parts of a nested name are joined with `/`."""
    if end - at > _SHORTEST and record[at] in _QUICK_KEYS:  # nearly all: a name, and a short value in JSON
        key_end = at + 2 + record[at + 1]
        if record[at + 1] < 128 and record[key_end : key_end + 2] == _QUICK_VALUE and key_end + 3 <= end:
            start = key_end + 3
            if record[start - 1] == end - start < 128:
                return record[at + 2 : key_end].decode(errors="replace"), _json(record, start, end)
    names: list[str] = []
    value: object = None
    for number, kind, start, stop in fields(record, at, end):
        if number in (_KEY, _NESTED_KEY) and kind == BYTES:
            names.append(record[start:stop].decode(errors="replace"))
        elif number in _READERS:
            value = _READERS[number](record, start, stop)
    return "/".join(names), value


def _json(record: bytes, at: int, end: int) -> object:
    """A JSON value; a number is read fastest by itself. NaN and infinities stand there bare, or as text."""
    text = record[at:end]
    try:
        return int(text) if text.isdigit() and len(text) < _DIGITS else float(text)
    except ValueError:
        pass
    try:
        return parse_json(text.decode(errors="replace"), round_integers=True)
    except ValueError:
        return text.decode(errors="replace")


def _double(record: bytes, at: int, end: int) -> object:
    if end - at != struct.calcsize("<d"):
        raise Damaged("a number is not eight bytes long")
    return struct.unpack_from("<d", record, at)[0]


def _integer(record: bytes, at: int, end: int) -> object:
    value = varint(record, at, end)[0]
    return (value >> 1) ^ -(value & 1)


_READERS: Mapping[int, Callable[[bytes, int, int], object]] = {
    _BOOLEAN: lambda record, at, end: float(bool(varint(record, at, end)[0])),
    _INTEGER: _integer,
    _NUMBER: _double,
    _TEXT: lambda record, at, end: record[at:end].decode(errors="replace"),
    _JSON: _json,
    _VALUE_JSON: _json,
}
"""By the field of a HistoryItem: older versions write JSON only."""


def _read_config(record: bytes, at: int, end: int, about: WandbFile) -> None:
    for number, kind, start, stop in fields(record, at, end):
        if number == 1 and kind == BYTES and len(about.config) < _MOST_SETTINGS:
            name, value = _item(record, start, stop)
            if name != "_wandb":
                about.config[name] = value


def _read_run(record: bytes, at: int, end: int, about: WandbFile) -> None:
    for number, kind, start, stop in fields(record, at, end):
        if kind != BYTES:
            continue
        if number == 1:
            about.run_id = record[start:stop].decode(errors="replace")
        elif number == 4:
            _read_config(record, start, stop, about)
        elif number == 8:
            about.display_name = record[start:stop].decode(errors="replace")
