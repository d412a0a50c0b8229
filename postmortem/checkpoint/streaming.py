"""Reads a file once: SHA-256 of the whole, CRC32 of its records, and non-finite elements of its tensors.

It needs memory for one block and a few numbers per tensor, whatever the size of the file.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from postmortem.errors import UnreadableInput

_BLOCK = 2**20  # bytes; a multiple of every element's size, so that no element is split between two blocks
_BYTES: dict[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex32": 4, "complex64": 8, "complex128": 16,
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip


def item_size(dtype: str | None) -> int | None:
    """Bytes of one element; None for an unknown dtype."""
    return None if dtype is None else _BYTES.get(dtype)


@dataclass(frozen=True, slots=True)
class TensorBytes:
    """The place of a tensor in a record: bytes [first, last), counted from the record's start."""

    name: str
    dtype: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class FileSpan:
    """`size` bytes of a file at `start`, with their stored CRC32 (None: none is stored) and the tensors in them."""

    name: str
    start: int
    size: int
    crc: int | None
    views: tuple[TensorBytes, ...] = ()


@dataclass(frozen=True)
class Scan:
    """The result of one pass: the file's SHA-256 in hex (None if not requested), the pieces whose CRC32 is wrong, and
    tensor → number of non-finite elements, for tensors that have any."""

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
    """Read `size` bytes of `file` once. `pieces` are sorted and do not overlap; `on_bytes` gets the bytes read.

    With `whole`, SHA-256 is computed over all bytes; without, bytes between the pieces are skipped.

    Raises:
        UnreadableInput: the file ends before `size` bytes.
    """
    position = 0
    sha = hashlib.sha256() if whole else None
    wrong: list[str] = []
    nonfinite: dict[str, int] = {}
    file.seek(0)

    def blocks(count: int) -> Iterator[bytes]:
        while count > 0:
            block = file.read(min(count, _BLOCK))
            if not block:
                raise UnreadableInput("ends earlier than its own tables say.", file=shown)
            if sha is not None:
                sha.update(block)
            count -= len(block)
            on_bytes(len(block))
            yield block

    for piece in (*pieces, FileSpan("", size, 0, None)):
        if sha is None:
            file.seek(piece.start)
        for _ in blocks(piece.start - position if sha is not None else 0):
            pass
        position = piece.start + piece.size
        counters = _counters(piece.views)
        crc = _read_piece(blocks(piece.size), counters)
        if piece.crc not in (None, crc):
            wrong.append(piece.name)
        for name, count in chain.from_iterable(counter.counts() for counter in counters):
            nonfinite[name] = nonfinite.get(name, 0) + count
    return Scan(None if sha is None else sha.hexdigest(), tuple(wrong), nonfinite)


def count_nonfinite(dtype: str, data: bytes) -> int:
    """Non-finite elements in the bytes of one tensor; 0 for a dtype that has none."""
    return int(_TESTS[dtype](data).sum()) if dtype in _TESTS else 0


def _read_piece(blocks: Iterable[bytes], counters: Sequence[_Counter]) -> int:
    """Let the counters count in the blocks of a piece; the CRC32 of the blocks."""
    crc, start = 0, 0
    for block in blocks:
        crc = zlib.crc32(block, crc)
        for counter in counters:
            counter.take(start, block)
        start += len(block)
    return crc


class _Counter:
    """Non-finite elements of one dtype in one record, by tensor.

    Tensors may share their bytes in any way. Every element is read once: the ends of all tensors cut the record into
    intervals, non-finite elements are counted by interval, and a tensor's count is the sum over its intervals.
    """

    def __init__(self, views: Sequence[TensorBytes], test: Callable[[bytes], NDArray[np.bool_]], width: int) -> None:
        self._views, self._test, self._width = views, test, width
        self._ends = np.unique(np.array([end for view in views for end in (view.first, view.last)], np.int64))
        self._counts = np.zeros(self._ends.size + 1, np.int64)

    def take(self, start: int, block: bytes) -> None:
        """Count in the record's bytes from `start` on, which is a multiple of the element's size."""
        whole = len(block) - len(block) % self._width
        hits = self._test(block[:whole] if whole < len(block) else block)
        if hits.any():
            places = np.flatnonzero(hits) * self._width + start
            self._counts += np.bincount(np.searchsorted(self._ends, places, "right"), minlength=self._counts.size)

    def counts(self) -> Iterator[tuple[str, int]]:
        """(tensor, number of non-finite elements) for tensors that have any."""
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
    return [_Counter(same_dtype, _TESTS[dtype], _BYTES[dtype]) for dtype, same_dtype in by_dtype.items()]


def is_mask(dtype: str, blocks: Iterable[bytes]) -> bool:
    """Whether a tensor in blocks of bytes has −∞ in some elements, and zero in all others.

    That is an attention mask, which is added to scores: no weight that overflowed.
    """
    if dtype not in _NEGATIVE_INFINITY:
        return False
    kind, minus_infinity = _NEGATIVE_INFINITY[dtype]
    zeros = False
    for block in blocks:
        bits = np.frombuffer(block, kind)
        zero = bits == 0
        if not (zero | (bits == minus_infinity)).all():
            return False
        zeros = zeros or bool(zero.any())
    return zeros


def _ieee(kind: str) -> Callable[[bytes], NDArray[np.bool_]]:
    return lambda block: ~np.isfinite(np.frombuffer(block, kind))


def _exponent(kind: str, mask: int) -> Callable[[bytes], NDArray[np.bool_]]:
    """Elements are non-finite if all bits of the exponent are set."""
    return lambda block: (np.frombuffer(block, kind) & mask) == mask


def _codes(*codes: int) -> Callable[[bytes], NDArray[np.bool_]]:
    """Formats of one byte: elements are non-finite if they are among `codes`."""
    table = np.zeros(256, np.bool_)
    table[list(codes)] = True
    return lambda block: table[np.frombuffer(block, np.uint8)]


_NEGATIVE_INFINITY = {  # dtype → (kind of its bits, bits of −∞)
    "float64": ("<u8", 0xFFF << 52),
    "float32": ("<u4", 0xFF80_0000),
    "float16": ("<u2", 0xFC00),
    "bfloat16": ("<u2", 0xFF80),
}
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
