"""The footer of a Parquet file, read here and not by pyarrow, which a damaged one makes end the whole process.

What the footer says is compared with itself and with the size of the file, so that whoever reads pages later asks for
no bytes outside the file, and for no more rows than so many bytes may have.
Format: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from postmortem.run.thrift import LIST, STRUCT, CompactReader, Damaged, Struct, number_in, struct_in

MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_TAIL = 8  # bytes behind the footer: its length, and the magic
LARGEST_FOOTER = 64 * 2**20
"""Bytes of a footer that is still read: 5,000 columns in sixty row groups."""

_MOST_CHUNKS = 500_000
_DEEPEST_SCHEMA = 24
FREE_VALUES, VALUES_PER_BYTE = 20_000_000, 64
"""Values of all columns that any file may have, and how many more for each of its bytes: a column of one value
repeated takes hardly any bytes, and a few bytes could claim a column that fills the memory."""

BOOLEAN, INT32, INT64, INT96, FLOAT, DOUBLE, BYTE_ARRAY, FIXED = range(8)
_WIDTHS = {BOOLEAN: 1, INT32: 4, INT64: 8, INT96: 12, FLOAT: 4, DOUBLE: 8}
_FORMATS = {BOOLEAN: "<?", INT32: "<i", INT64: "<q", FLOAT: "<f", DOUBLE: "<d"}
_DICTIONARY_OR_PLAIN = frozenset({0, 2, 3, 4, 8})  # encodings, those of levels among them
_LIST_OF = 3  # converted type LIST
_SIGNED = range(15, 19)  # converted types INT_8 to INT_64
_REQUIRED, _REPEATED = 0, 2


@dataclass(frozen=True, slots=True)
class Leaf:
    """A column as it is stored: `path` from the top, its physical type, and the bytes of one value (0: they vary).

    `repeated`: it is in a list, at any depth; `fielded`: it is in something else than lists, such as a struct."""

    path: tuple[str, ...]
    kind: int
    width: int
    repeated: bool
    fielded: bool
    numeric: bool


@dataclass(frozen=True, slots=True)
class ColumnChunk:
    """The pages of one leaf in one row group: bytes [start, start + size) of the file, and statistics as they stand.

    `listed`: whether there is a dictionary of its values; `plain`: whether all others are stored one after another.
    """

    start: int
    size: int
    values: int
    listed: bool
    plain: bool
    nulls: int | None
    low: bytes
    high: bytes

    def ends(self, leaf: Leaf) -> tuple[float, float] | None:
        """Smallest and largest number; None where they are unknown, NaN, or no numbers."""
        form = _FORMATS.get(leaf.kind) if leaf.numeric else None
        if form is None or not len(self.low) == len(self.high) == struct.calcsize(form):
            return None
        low, high = struct.unpack(form, self.low)[0], struct.unpack(form, self.high)[0]
        return (low, high) if low <= high else None


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Consecutive rows, with a chunk for each leaf."""

    rows: int
    chunks: tuple[ColumnChunk, ...]


@dataclass(frozen=True)
class Footer:
    """What a Parquet file says about itself. `columns` maps the name of a column to its first leaf and their number.

    `tail` are the bytes from `tail_start` to the end of the file, the footer among them.
    """

    rows: int
    leaves: tuple[Leaf, ...]
    columns: dict[str, tuple[int, int]]
    groups: tuple[RowGroup, ...]
    size: int
    tail_start: int
    tail: bytes


def read_footer(path: Path) -> Footer:
    """Read the footer of the file at `path`, and nothing else.

    Raises:
        Damaged: it is no Parquet file, contradicts itself, or claims more than is read.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        end = os.pread(file.fileno(), _TAIL, max(size - _TAIL, 0))
        length = _footer_length(os.pread(file.fileno(), len(MAGIC), 0), end)
        start = size - _TAIL - length
        if start < len(MAGIC):
            raise Damaged(f"its footer of {length:,} bytes is longer than the file")
        tail = os.pread(file.fileno(), length + _TAIL, start)
    if len(tail) < length + _TAIL:
        raise Damaged("it became shorter while it was read")
    return _Parser(tail[:length], start).footer(size, tail)


def _footer_length(head: bytes, end: bytes) -> int:
    if end[4:] == _ENCRYPTED:
        raise Damaged("its footer is encrypted")
    if head != MAGIC or end[4:] != MAGIC:
        raise Damaged("it does not begin and end with PAR1, as Parquet does")
    length = int.from_bytes(end[:4], "little")
    if length > LARGEST_FOOTER:
        raise Damaged(f"its footer has {length:,} bytes; {LARGEST_FOOTER:,} are the most that is read")
    return length


class _Parser:
    """Reads the struct FileMetaData; of what may be there by the million, only what is needed is kept."""

    def __init__(self, data: bytes, end_of_pages: int) -> None:
        self._reader, self._end = CompactReader(data), end_of_pages
        self._leaves: tuple[Leaf, ...] = ()
        self._columns: dict[str, tuple[int, int]] = {}
        self._groups: list[RowGroup] = []
        self._chunks = 0

    def footer(self, size: int, tail: bytes) -> Footer:
        """All of it, checked."""
        rows = 0
        for number, kind in self._fields():
            if number == 2 and kind == LIST:
                self._leaves, self._columns = _leaves([self._reader.structure() for _ in self._structs()])
            elif number == 4 and kind == LIST and self._leaves:
                self._groups = [self._group() for _ in self._structs()]
            else:
                value = self._reader.value(kind)
                rows = value if number == 3 and type(value) is int else rows
        if not self._leaves:
            raise Damaged("its footer has no schema")
        stored = sum(group.rows for group in self._groups)
        if rows != stored:
            raise Damaged(f"its footer says {rows:,} rows, its row groups {stored:,}")
        _check_amount(self._groups, self._leaves, size)
        return Footer(rows, self._leaves, self._columns, tuple(self._groups), size, self._end, tail)

    def _fields(self) -> Iterator[tuple[int, int]]:
        """(number, kind) of each field of the struct that begins here; its value is read before the next is asked."""
        number, kind = self._reader.field(0)
        while kind:
            yield number, kind
            number, kind = self._reader.field(number)

    def _structs(self) -> range:
        """One number for each element of the list of structs that begins here."""
        size, kind = self._reader.elements()
        if size and kind != STRUCT:
            raise Damaged("a list has other elements than it should")
        return range(size)

    def _group(self) -> RowGroup:
        rows, chunks = 0, list[Struct]()
        for number, kind in self._fields():
            if number == 1 and kind == LIST:
                elements = self._structs()
                self._chunks += len(elements)
                if len(elements) != len(self._leaves):
                    raise Damaged(f"a row group has {len(elements):,} columns, the schema {len(self._leaves):,}")
                if self._chunks > _MOST_CHUNKS:
                    raise Damaged(f"more than {_MOST_CHUNKS:,} pieces of columns; that is the most that is read")
                chunks = [self._reader.structure() for _ in elements]
            else:
                value = self._reader.value(kind)
                rows = value if number == 3 and type(value) is int else rows
        if rows < 0 or len(chunks) != len(self._leaves):
            raise Damaged("a row group has no columns or a negative number of rows")
        return RowGroup(rows, tuple(self._chunk(c, leaf, rows) for c, leaf in zip(chunks, self._leaves, strict=True)))

    def _chunk(self, fields: Struct, leaf: Leaf, rows: int) -> ColumnChunk:
        about = struct_in(fields, 3)
        if not about or fields.keys() & {1, 8, 9}:
            raise Damaged("a column is encrypted, or stored in another file")
        if number_in(about, 1) != leaf.kind:
            raise Damaged("a column has another type than the schema says")
        values, size, start = number_in(about, 5), number_in(about, 7), number_in(about, 9)
        dictionary = number_in(about, 11, 0)
        start = dictionary if 0 < dictionary < start else start
        if values < rows or (values > rows and not leaf.repeated):
            raise Damaged(f"a column has {values:,} values in {rows:,} rows")
        if start < len(MAGIC) or size < 0 or start + size > self._end:
            raise Damaged(f"a column has bytes {start:,} to {start + size:,} of a file with {self._end:,}")
        low, high, nulls = _statistics(struct_in(about, 12), values)
        encodings = about.get(2)
        plain = isinstance(encodings, list) and _DICTIONARY_OR_PLAIN.issuperset(cast(list[object], encodings))
        return ColumnChunk(start, size, values, dictionary > 0, plain, nulls, low, high)


def _statistics(fields: Struct, values: int) -> tuple[bytes, bytes, int | None]:
    """(smallest, largest, nulls): the first two as they are stored, in their newer or older field, empty if unknown."""
    low, high, nulls = fields.get(6, fields.get(2)), fields.get(5, fields.get(1)), fields.get(3)
    count = nulls if type(nulls) is int and 0 <= nulls <= values else None
    if not isinstance(low, bytes) or not isinstance(high, bytes) or max(len(low), len(high)) > 8:
        return b"", b"", count
    return low, high, count


def _leaves(schema: Sequence[Struct]) -> tuple[tuple[Leaf, ...], dict[str, tuple[int, int]]]:
    """The leaves of a schema in its order, and its columns: name → (first leaf, number of leaves); of two columns with
    one name, the first counts."""
    leaves: list[Leaf] = []
    columns: dict[str, tuple[int, int]] = {}
    elements = iter(schema)

    def walk(path: tuple[str, ...], repeated: bool, fielded: bool) -> None:
        element = next(elements, None)
        if element is None or len(path) > _DEEPEST_SCHEMA:
            raise Damaged("its schema ends too early, or is nested too deeply")
        path, again = (*path, _name(element)), number_in(element, 3, _REQUIRED) == _REPEATED
        children = number_in(element, 5, 0)
        if children <= 0:
            leaves.append(_leaf(element, path, repeated or again, fielded))
        in_list = children == 1 and (again or element.get(6) == _LIST_OF)
        for _ in range(children):
            walk(path, repeated or again, fielded or not in_list)

    root = next(elements, {})
    for _ in range(number_in(root, 5, 0)):
        first = len(leaves)
        walk((), False, False)
        columns.setdefault(leaves[first].path[0], (first, len(leaves) - first))
    if next(elements, None) is not None or not leaves:
        raise Damaged("its schema has no columns, or more elements than it says")
    return tuple(leaves), columns


def _name(element: Struct) -> str:
    name = element.get(4)
    try:
        return name.decode() if isinstance(name, bytes) else str(name)
    except UnicodeDecodeError:
        raise Damaged("the name of a column is no UTF-8 text") from None


def _leaf(element: Struct, path: tuple[str, ...], repeated: bool, fielded: bool) -> Leaf:
    kind, length = number_in(element, 1), number_in(element, 2, 0)
    if not BOOLEAN <= kind <= FIXED or (kind == FIXED and length <= 0):
        raise Damaged(f"a column of the unknown type {kind}")
    width = length if kind == FIXED else _WIDTHS.get(kind, 0)
    plain_number = (6 in element and number_in(element, 6) in _SIGNED) or not element.keys() & {6, 10}
    return Leaf(path, kind, width, repeated, fielded, plain_number and len(path) == 1 and not repeated)


def _check_amount(groups: Sequence[RowGroup], leaves: Sequence[Leaf], size: int) -> None:
    """Raise Damaged where the columns claim more values, or bytes, than a file of this size has."""
    chunks = [(chunk, leaf) for group in groups for chunk, leaf in zip(group.chunks, leaves, strict=True)]
    # The numbers of an 8-byte column are one value each; of a wider one, several.
    values = sum(chunk.values * max(1, leaf.width // 8) for chunk, leaf in chunks)
    most = FREE_VALUES + VALUES_PER_BYTE * size
    if values > most:
        raise Damaged(f"it claims {values:,} values in {size:,} bytes; {most:,} are the most that is read")
    stored = sum(chunk.size for chunk, _ in chunks)
    if stored > size:
        raise Damaged(f"its columns claim {stored:,} bytes of a file with {size:,}")
