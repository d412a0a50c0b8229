"""Protobuf's wire format: the fields of a message, without knowing its type.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator

from postmortem.run.thrift import Damaged

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10  # bytes of 64 bits
_WIDTH = {FIXED64: 8, FIXED32: 4}

Field = tuple[int, int, int, int]
"""(number, kind, first byte of its value, byte behind it)."""


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """(the unsigned number at byte `at`, the byte behind it).

    Raises:
        Damaged: it does not end before `end`, or has more than 64 bits.
    """
    value = shift = 0
    for i in range(at, min(end, at + _LONGEST_VARINT)):
        byte = data[i]
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFF_FFFF_FFFF_FFFF, i + 1
        shift += 7
    raise Damaged("a number has no end")


def fields(data: bytes, at: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message in bytes at ≤ i < end, in their order.

    Raises:
        Damaged: they are no message.
    """
    while at < end:
        tag = data[at]
        at += 1
        if tag > 127:
            tag, at = varint(data, at - 1, end)
        number, kind = tag >> 3, tag & 7
        if not number:
            raise Damaged("a field has the number 0")
        if kind == BYTES:
            if at < end and data[at] < 128:
                start = at + 1
                at = start + data[at]
            else:
                size, start = varint(data, at, end)
                at = start + size
        elif kind == VARINT:
            start = at
            _, at = varint(data, at, end)
        elif kind in _WIDTH:
            start, at = at, at + _WIDTH[kind]
        else:
            raise Damaged(f"a field of the unknown kind {kind}")
        if at > end:
            raise Damaged("it ends in the middle of a field")
        yield number, kind, start, at
