"""One pass over a file's bytes: SHA-256 of the whole, CRC32 of its records, and non-finite elements of its tensors.

Memory is a block of the file and a few numbers for each tensor, however large the file.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from postmortem.errors import UnreadableInput

_BLOCK = 2**20  # bytes; a multiple of every element's size, so that no element lies on the edge of two blocks
_BYTES: dict[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex32": 4, "complex64": 8, "complex128": 16,
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip


def item_size(dtype: str | None) -> int | None:
    """Bytes of one element; None for a dtype that is not known."""
    return None if dtype is None else _BYTES.get(dtype)


@dataclass(frozen=True, slots=True)
class TensorBytes:
    """A tensor as a stretch of a record: bytes [first, last) counted from the record's start."""

    name: str
    dtype: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class FileSpan:
    """`size` bytes of a file at `start`, with the CRC32 stored for them (None: none), and the tensors in them."""

    what: str
    start: int
    size: int
    crc: int | None
    views: tuple[TensorBytes, ...] = ()


@dataclass(frozen=True)
class Scan:
    """What one pass found: the file's SHA-256 in hex (None where not asked for), the pieces whose CRC32 is wrong, and
    non-finite elements by tensor, where there are any."""

    sha256: str | None
    wrong: tuple[str, ...]
    nonfinite: Mapping[str, int]


def scan(
    file: BinaryIO,
    size: int,
    pieces: Sequence[FileSpan],
    shown: str,
    *,
    whole: bool = False,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Scan:
    """Read `size` bytes of `file` once. `pieces` are sorted and do not overlap; `on_bytes` hears what was read.

    With `whole`, SHA-256 is taken of all of them; without, what lies between the pieces is passed over.

    Raises:
        UnreadableInput: the file ends before `size` bytes.
    """
    at = 0
    sha = hashlib.sha256() if whole else None
    wrong: list[str] = []
    nonfinite: dict[str, int] = {}
    file.seek(0)

    def blocks(count: int) -> Iterator[bytes]:
        while count > 0:
            block = file.read(min(count, _BLOCK))
            if not block:
                raise UnreadableInput("ends before its own tables say.", file=shown)
            if sha is not None:
                sha.update(block)
            count -= len(block)
            on_bytes(len(block))
            yield block

    for piece in (*pieces, FileSpan("", size, 0, None)):
        if sha is None:
            file.seek(piece.start)
        for _ in blocks(piece.start - at if sha is not None else 0):
            pass
        at = piece.start + piece.size
        own, done = 0, 0
        counters = _counters(piece.views)
        for block in blocks(piece.size):
            own = zlib.crc32(block, own)
            for counter in counters:
                counter.take(done, block)
            done += len(block)
        if piece.crc not in (None, own):
            wrong.append(piece.what)
        for counter in counters:
            for name, count in counter.counts():
                nonfinite[name] = nonfinite.get(name, 0) + count
    return Scan(None if sha is None else sha.hexdigest(), tuple(wrong), nonfinite)


class _Counter:
    """Non-finite elements of one dtype in one record, by tensor.

    Tensors may share their bytes in any way. Every element is looked at once: the ends of all tensors cut the record
    into stretches, non-finite elements are counted by stretch, and a tensor has the sum over its own.
    """

    def __init__(self, views: Sequence[TensorBytes], test: Callable[[bytes], NDArray[np.bool_]], width: int) -> None:
        self._views, self._test, self._width = views, test, width
        self._ends = np.unique(np.array([end for view in views for end in (view.first, view.last)], np.int64))
        self._counts = np.zeros(self._ends.size + 1, np.int64)

    def take(self, start: int, block: bytes) -> None:
        """The record's bytes from `start` on, a multiple of the element's size."""
        whole = len(block) - len(block) % self._width
        hits = self._test(block[:whole] if whole < len(block) else block)
        if hits.any():
            places = np.flatnonzero(hits) * self._width + start
            self._counts += np.bincount(np.searchsorted(self._ends, places, "right"), minlength=self._counts.size)

    def counts(self) -> Iterator[tuple[str, int]]:
        """(tensor, its non-finite elements) where there are any."""
        below = np.concatenate(([0], np.cumsum(self._counts)))
        for view in self._views:
            first, last = (int(below[np.searchsorted(self._ends, end, "left") + 1]) for end in (view.first, view.last))
            if last > first:
                yield view.name, last - first


def _counters(views: Sequence[TensorBytes]) -> list[_Counter]:
    by_dtype: dict[str, list[TensorBytes]] = {}
    for view in views:
        if view.dtype in _TESTS:
            by_dtype.setdefault(view.dtype, []).append(view)
    return [_Counter(some, _TESTS[dtype], _BYTES[dtype]) for dtype, some in by_dtype.items()]


def _ieee(kind: str) -> Callable[[bytes], NDArray[np.bool_]]:
    return lambda block: ~np.isfinite(np.frombuffer(block, kind))


def _exponent(kind: str, mask: int) -> Callable[[bytes], NDArray[np.bool_]]:
    """Non-finite where all bits of the exponent are set."""
    return lambda block: (np.frombuffer(block, kind) & mask) == mask


def _codes(*codes: int) -> Callable[[bytes], NDArray[np.bool_]]:
    """Formats of one byte: non-finite by list."""
    table = np.zeros(256, np.bool_)
    table[list(codes)] = True
    return lambda block: table[np.frombuffer(block, np.uint8)]


_TESTS: dict[str, Any] = {
    "float64": _ieee("<f8"),
    "float32": _ieee("<f4"),
    "float16": _exponent("<u2", 0x7C00),
    "bfloat16": _exponent("<u2", 0x7F80),
    "complex64": _ieee("<c8"),
    "complex128": _ieee("<c16"),
    "float8_e4m3fn": _codes(0x7F, 0xFF),
    "float8_e4m3fnuz": _codes(0x80),
    "float8_e5m2": _codes(*range(0x7C, 0x80), *range(0xFC, 0x100)),
    "float8_e5m2fnuz": _codes(0x80),
    "float8_e8m0fnu": _codes(0xFF),
}
