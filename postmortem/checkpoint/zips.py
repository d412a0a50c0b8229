"""Reads the archives of torch.save in place: whole files, or parts of a .distcp file.

torch writes plain zips: every record is uncompressed, with its CRC32 in the central directory at the end. Only what
torch writes is accepted: a compressed record can be a zip bomb, overlapping records too, and a directory that disagrees
with its records shows different contents to different readers.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from postmortem.errors import UnreadableInput
from postmortem.text import plain

_END, _END64, _LOCATOR = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
_ENTRY, _HEADER = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")
_MOST_DIRECTORY = 32 * 2**20
_FULL = 0xFFFFFFFF  # a 32-bit field whose value is in the zip64 extra field


@dataclass(frozen=True, slots=True)
class Record:
    """One file of an archive: `size` bytes at `start` (counted from the beginning of the outer file), with its CRC32.

    `name` is without the folder that torch puts every record in: `data.pkl`, `data/0`, `byteorder`.
    """

    name: str
    start: int
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class _Entry:
    name: bytes
    header: int
    size: int
    crc: int


def records(file: BinaryIO, start: int, length: int, shown: str) -> dict[str, Record]:
    """The records of the archive that fills `length` bytes of `file` from `start` on, by name, in order of offset.

    Raises:
        UnreadableInput: not an archive as torch.save writes it; the message names it by `shown`.
    """
    try:
        entries, directory = _directory(file, start, length, shown)
        by_name: dict[str, Record] = {}
        free = 0
        for entry in sorted(entries, key=lambda entry: entry.header):
            if entry.header < free:
                raise UnreadableInput("an archive whose records overlap.", file=shown)
            record = _record(file, start, directory, entry, shown)
            free = record.start + record.size - start
            if free > directory:
                raise UnreadableInput("an archive with a record that reaches beyond its end.", file=shown)
            if record.name in by_name:
                raise UnreadableInput(f"an archive with two records named {plain(record.name, 80)}.", file=shown)
            by_name[record.name] = record
    except struct.error as error:
        raise UnreadableInput("a damaged archive.", file=shown) from error
    return by_name


def read(file: BinaryIO, record: Record, limit: int, shown: str) -> bytes:
    """A small record, its CRC32 checked.

    Raises:
        UnreadableInput: larger than `limit` bytes, cut short, or not what its CRC32 says.
    """
    if record.size > limit:
        raise UnreadableInput(f"{plain(record.name, 80)} takes more than {limit >> 20} MiB.", file=shown)
    file.seek(record.start)
    data = file.read(record.size)
    if len(data) != record.size or zlib.crc32(data) != record.crc:
        raise UnreadableInput(f"{plain(record.name, 80)} is damaged: its CRC32 is wrong.", file=shown)
    return data


def _directory(file: BinaryIO, start: int, length: int, shown: str) -> tuple[list[_Entry], int]:
    """(entries, offset of the central directory in the archive)."""
    tail_size = min(length, _END.size + _LOCATOR.size)
    file.seek(start + length - tail_size)
    tail = file.read(tail_size)
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\5\6":
        raise UnreadableInput("not an archive as torch.save writes it, or one that was cut short.", file=shown)
    _, _, _, _, count, size, offset, _ = _END.unpack(tail[-_END.size :])
    end = length - _END.size
    if tail[:4] == b"PK\6\7":
        end = _LOCATOR.unpack(tail[: _LOCATOR.size])[2]
        file.seek(start + min(end, length))
        signature, *_, count, size, offset = _END64.unpack(file.read(_END64.size))
        if signature != b"PK\6\6" or end + _END64.size > length:
            raise UnreadableInput("a damaged archive.", file=shown)
    if offset + size != end or size > _MOST_DIRECTORY:
        raise UnreadableInput("an archive whose directory is not where it says.", file=shown)
    file.seek(start + offset)
    table = file.read(size)
    entries: list[_Entry] = []
    position = 0
    while position < len(table):
        entry, position = _entry(table, position, shown)
        entries.append(entry)
    if len(entries) != count:
        raise UnreadableInput("an archive whose directory is damaged.", file=shown)
    return entries, offset


def _entry(table: bytes, position: int, shown: str) -> tuple[_Entry, int]:
    """(entry of the central directory at offset `position`, offset after it)."""
    fields = _ENTRY.unpack_from(table, position)
    signature, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size, *_, header = fields
    name_start = position + _ENTRY.size
    extra_start = name_start + name_size
    name, extra = table[name_start:extra_start], table[extra_start : extra_start + extra_size]
    if signature != b"PK\1\2" or len(extra) != extra_size:
        raise UnreadableInput("an archive whose directory is damaged.", file=shown)
    if method or flags & 1:
        raise UnreadableInput("a compressed or encrypted archive, which torch.save does not write.", file=shown)
    wide = _zip64_numbers(extra)
    size, packed, header = (next(wide, value) if value == _FULL else value for value in (size, packed, header))
    if packed != size:
        raise UnreadableInput("an archive that contradicts itself about a size.", file=shown)
    return _Entry(name, header, size, crc), extra_start + extra_size + comment_size


def _zip64_numbers(extra: bytes) -> Iterator[int]:
    """The 64-bit numbers of the zip64 extra field, in order: size, packed size, offset (those that are needed)."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            for place in range(position + 4, min(position + 4 + size, len(extra)) - 7, 8):
                yield int(struct.unpack_from("<Q", extra, place)[0])
        position += 4 + size


def _record(file: BinaryIO, start: int, directory: int, entry: _Entry, shown: str) -> Record:
    """The place of an entry's bytes, read from its local header, which has to agree with the directory."""
    if entry.header + _HEADER.size > directory:
        raise UnreadableInput("an archive with a record that reaches beyond its end.", file=shown)
    file.seek(start + entry.header)
    fields = _HEADER.unpack(file.read(_HEADER.size))
    signature, _, flags, method, _, _, _, _, size, name_size, extra_size = fields
    agrees = file.read(name_size) == entry.name and method == 0
    sized = size in (entry.size, _FULL) or (flags & 8 and not size)  # 8: the sizes follow the data
    if signature != b"PK\3\4" or not (agrees and sized):
        raise UnreadableInput("an archive whose records are not what its directory says.", file=shown)
    _, slash, name = entry.name.decode("utf-8", "replace").partition("/")
    begin = start + entry.header + _HEADER.size + name_size + extra_size
    return Record(name if slash else entry.name.decode("utf-8", "replace"), begin, entry.size, entry.crc)
