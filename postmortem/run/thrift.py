"""Thrift's compact protocol, of which Parquet's footer and page headers are made.

pyarrow reads the same bytes, but some of what it then finds wrong ends the process instead of raising. A value is an
int, a float, a bool, bytes, a list of values, or for a struct a dict of them by field number.
"""

from __future__ import annotations

import struct
from typing import cast

Value = object
Struct = dict[int, Value]

BINARY, LIST, SET, STRUCT = 8, 9, 10, 12
_TRUE, _FALSE, _BYTE, _I16, _I64, _DOUBLE = 1, 2, 3, 4, 6, 7
_DEEPEST = 16  # structs and lists inside each other; Parquet's own need seven
_MOST_ELEMENTS = 4_000_000  # of all lists together; 300,000 column chunks need half of them


class Damaged(ValueError):
    """Bytes that are not what they have to be, or claim more than is read. The message says which, without a period."""


class CompactReader:
    """Reads values one after another from `data`, beginning at byte `at`, which moves on behind what was read.

    Raises:
        Damaged: from every method, where the bytes end too early or are no Thrift.
    """

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at
        self._elements_left = _MOST_ELEMENTS

    def varint(self) -> int:
        """An unsigned number of up to ten bytes."""
        data, at = self.data, self.at
        try:
            value = data[at]
            at += 1
            if value > 127:
                value, shift = value & 127, 7
                while (byte := data[at]) > 127 and shift < 63:
                    value |= (byte & 127) << shift
                    at, shift = at + 1, shift + 7
                value |= byte << shift
                at += 1
        except IndexError:
            raise Damaged("it ends in the middle of a value") from None
        self.at = at
        return value

    def integer(self) -> int:
        """A signed number."""
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def text(self) -> bytes:
        """Bytes with their length before them."""
        return self._take(self.varint())

    def field(self, last: int) -> tuple[int, int]:
        """(number, kind) of the next field of a struct, whose field before it was `last`; kind 0 ends the struct."""
        head = self._byte()
        if not head:
            return last, 0
        return (last + (head >> 4) if head > 15 else self.integer()), head & 15

    def elements(self) -> tuple[int, int]:
        """(size, kind) of the list that begins here."""
        head = self._byte()
        size = head >> 4 if head < 0xF0 else self.varint()
        self._elements_left -= size
        if size > len(self.data) - self.at or self._elements_left < 0:
            raise Damaged(f"a list of {size:,} elements in {len(self.data):,} bytes")
        return size, head & 15

    def structure(self, depth: int = 0) -> Struct:
        """A struct with all its fields. A footer has hundreds of thousands, so what is short is read right here."""
        if depth > _DEEPEST:
            raise Damaged(f"more than {_DEEPEST} levels inside each other")
        data, at, number = self.data, self.at, 0
        fields: Struct = {}
        try:
            while head := data[at]:
                kind = head & 15
                if head > 15:
                    number, at = number + (head >> 4), at + 1
                else:
                    self.at = at + 1
                    number, at = self.integer(), self.at
                if _I16 <= kind <= _I64:
                    value, at = data[at], at + 1
                    if value > 127:
                        self.at = at - 1
                        value, at = self.varint(), self.at
                    fields[number] = (value >> 1) ^ -(value & 1)
                elif kind == BINARY and (value := data[at]) < 128 and at + value < len(data):
                    fields[number], at = data[at + 1 : at + 1 + value], at + 1 + value
                elif kind == STRUCT:
                    self.at = at
                    fields[number], at = self.structure(depth + 1), self.at
                elif _TRUE <= kind <= _FALSE:
                    fields[number] = kind == _TRUE
                else:
                    self.at = at
                    fields[number], at = self.value(kind, depth), self.at
        except IndexError:
            raise Damaged("it ends in the middle of a value") from None
        self.at = at + 1
        return fields

    def value(self, kind: int, depth: int = 0) -> Value:
        """A value of a kind, as it stands in a list, and in a struct where it is no bool."""
        if _I16 <= kind <= _I64:
            return self.integer()
        if kind == BINARY:
            return self.text()
        if kind == STRUCT:
            return self.structure(depth + 1)
        if kind in (LIST, SET):
            size, inner = self.elements()
            if depth > _DEEPEST:
                raise Damaged(f"more than {_DEEPEST} levels inside each other")
            if _I16 <= inner <= _I64:
                return [self.integer() for _ in range(size)]
            return [self.value(inner, depth + 1) for _ in range(size)]
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            return struct.unpack("<d", self._take(8))[0]
        raise Damaged(f"a value of the unknown kind {kind}")

    def _byte(self) -> int:
        at = self.at
        self.at = at + 1
        try:
            return self.data[at]
        except IndexError:
            raise Damaged("it ends in the middle of a value") from None

    def _take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        if len(taken) < size:
            raise Damaged("it ends in the middle of a value")
        self.at += size
        return taken


def number_in(fields: Struct, number: int, default: int | None = None) -> int:
    """A whole number of a struct. Raises Damaged where it is another kind of value, or absent without `default`."""
    value = fields.get(number, default)
    if type(value) is not int:
        raise Damaged(f"field {number} is no number")
    return value


def struct_in(fields: Struct, number: int) -> Struct:
    """A struct of a struct, empty where it is absent. Raises Damaged where it is another kind of value."""
    value = fields.get(number, {})
    if not isinstance(value, dict):
        raise Damaged(f"field {number} is no struct")
    return cast(Struct, value)
