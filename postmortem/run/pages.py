"""The headers of a Parquet column's pages, checked before anything is decoded.

A page says how many values it has and how large it is when it is decompressed; both decide how much memory its reader
takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from postmortem.run.footer import ColumnChunk, Leaf
from postmortem.run.thrift import CompactReader, Damaged, Struct, number_in, struct_in

_DATA, _INDEX, _DICTIONARY, _DATA_V2 = range(4)
_SHARED_PREFIXES = 7  # DELTA_BYTE_ARRAY, in which a text may be longer than all bytes of its page
_SLACK, _PAGE_SLACK = 2**20, 4096  # bytes of a chunk, and of each page, besides its values: levels, padding of blocks
_LEVELS = 8  # bytes of a value's levels at most
_FREE_TEXT, _TEXT_PER_BYTE = 64 * 2**20, 50


@dataclass(slots=True)
class PageSizes:
    """What the pages of text took so far, in bytes: decompressed, and the longest that a single text may be.

    `longest_listed` is of text that a dictionary lists, where it is stored once, `longest_chained` of text that shares
    its beginning with the text before it.
    """

    text: int = 0
    longest_listed: int = 0
    longest_chained: int = 0


def check_pages(data: bytes, chunk: ColumnChunk, leaf: Leaf, sizes: PageSizes, file_size: int) -> None:
    """Walk over the pages in `data`, the bytes of `chunk`, and add to `sizes` where they are text.

    Raises:
        Damaged: a header is none, the pages have another number of values than the footer says, or they are larger than
            their values can be.
    """
    reader = CompactReader(data)
    values = unpacked = pages = 0
    while values < chunk.values:
        if reader.at >= len(data):
            raise Damaged(f"its pages have {values:,} values, its footer says {chunk.values:,}")
        header = reader.structure()
        packed, size = number_in(header, 3), number_in(header, 2)
        if packed < 0 or size < 0 or packed > len(data) - reader.at:
            raise Damaged("a page is larger than its column")
        reader.at += packed
        values += _values(header, size, leaf, sizes)
        unpacked, pages = unpacked + size, pages + 1
        if leaf.width and unpacked > chunk.values * (2 * leaf.width + _LEVELS) + pages * _PAGE_SLACK + _SLACK:
            raise Damaged(f"{chunk.values:,} values take {unpacked:,} bytes")
        if pages > chunk.values + 2:
            raise Damaged("it has more pages than values")
    if values > chunk.values:
        raise Damaged(f"its pages have {values:,} values, its footer says {chunk.values:,}")
    sizes.text += 0 if leaf.width else unpacked
    check_text(sizes.text, file_size)


def check_text(size: int, file_size: int) -> None:
    """Raise Damaged where a column has more text than one in a file of this size."""
    if size > (most := _FREE_TEXT + _TEXT_PER_BYTE * file_size):
        raise Damaged(f"more than {most:,} bytes of text in a file with {file_size:,}; that is the most that is read")


def _values(header: Struct, size: int, leaf: Leaf, sizes: PageSizes) -> int:
    """The values of a page, 0 for a dictionary."""
    kind = number_in(header, 1)
    if kind == _DICTIONARY:
        listed = number_in(struct_in(header, 7), 1)
        if not 0 <= listed <= size:
            raise Damaged(f"a dictionary of {listed:,} values in {size:,} bytes")
        if not leaf.width:
            sizes.longest_listed = max(sizes.longest_listed, size)
        return 0
    if kind not in (_DATA, _DATA_V2):
        return 0
    about = struct_in(header, 5 if kind == _DATA else 8)
    values, encoding = number_in(about, 1), number_in(about, 2 if kind == _DATA else 4)
    if values < 0:
        raise Damaged(f"a page with {values:,} values")
    if encoding == _SHARED_PREFIXES:
        sizes.longest_chained = max(sizes.longest_chained, size)
    return values
