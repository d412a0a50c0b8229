"""One Parquet file, column by column: checked here, decoded by pyarrow.

Some of what pyarrow finds wrong ends the process, which no `except` catches: above all its classes for the footer, as
Python sees them. So the footer is read by `postmortem.run.footer`, and pyarrow is given only bytes whose page headers
were checked before, through the calls that report what they find.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

from postmortem.errors import UnreadableInput
from postmortem.run.arrow import Array, cells_from
from postmortem.run.footer import BYTE_ARRAY, Footer, read_footer
from postmortem.run.naming import is_label
from postmortem.run.pages import PageSizes, check_pages, check_text
from postmortem.run.table import Bounds, Part, joined_bounds
from postmortem.run.thrift import Damaged
from postmortem.run.values import Cells
from postmortem.text import plain

_TOGETHER = 65_536  # rows of small row groups that are decoded in one call
_MOST_TEXT = 64 * 2**20  # bytes of text that are decoded at once where one text may be long


def parquet_part(path: Path, display_name: str, labels: frozenset[str]) -> Part:
    """One Parquet file, of which only the footer is read until a column is asked for.

    Text in `labels`, and in columns that are labels by their name, stays text.

    Raises:
        UnreadableInput: empty, corrupt, or no Parquet file at all; from `load` also where pages are damaged.
    """
    if path.stat().st_size == 0:
        raise UnreadableInput("the file is empty (0 bytes).", file=display_name)
    with _one_message("not a readable Parquet file", display_name):
        file = ParquetColumns(path, read_footer(path))

    def load(name: str) -> Cells:
        with _one_message(f"column {plain(name, 60)} cannot be read", display_name):
            return cells_from(file.arrays(name), file.footer.rows, label=name in labels or is_label(name))

    return Part(file.footer.rows, tuple(file.footer.columns), load, file.bounds)


@contextmanager
def _one_message(what: str, display_name: str) -> Generator[None]:
    """Any error that a damaged file, its decoder or a full memory raises becomes one message that names the file.

    A file that is wrong in a new way raises what nobody listed: pyarrow has its own classes, most of which are built-in
    ones, too, and dates beyond the calendar, decimals or names of time zones add others.
    """
    try:
        yield
    except UnreadableInput:
        raise
    except MemoryError as error:
        raise UnreadableInput(f"{what} (it needs more memory than there is).", file=display_name) from error
    except FileNotFoundError:
        raise
    except Exception as error:
        raise UnreadableInput(f"{what} ({_first_line(error)}).", file=display_name) from error


def _first_line(error: Exception) -> str:
    return plain(str(error).splitlines()[0] if str(error) else type(error).__name__, 160)


class ParquetColumns:
    """The columns of one file. It is open only while a column is read; a run may have hundreds of such files."""

    def __init__(self, path: Path, footer: Footer) -> None:
        self._path, self.footer = path, footer
        self._bytes = _CheckedBytes(footer)

    @cached_property
    def _reader(self) -> Any:
        """pyarrow's reader, which is expensive to make where there are thousands of columns."""
        import pyarrow.parquet as pq

        with self._path.open("rb") as file, self._bytes.opened(file):
            opened = pq.ParquetFile(
                self._bytes,
                read_dictionary=[".".join(self.footer.leaves[i].path) for i in self._listed],
                page_checksum_verification=True,
                pre_buffer=False,  # it would ask for the bytes between columns, too
            )
            if opened.reader.num_row_groups != len(self.footer.groups):
                raise Damaged("its footer changed while it was read")
            return opened.reader

    @cached_property
    def _listed(self) -> frozenset[int]:
        """The leaves of text that dictionaries list. They are decoded to indices, because a few bits for each row may
        stand for a long text. Of leaves with one path, pyarrow means the last; it cannot mix all encodings so."""
        last = {".".join(leaf.path): i for i, leaf in enumerate(self.footer.leaves)}
        groups = self.footer.groups
        return frozenset(
            i
            for i in last.values()
            if self.footer.leaves[i].kind == BYTE_ARRAY
            and not self.footer.leaves[i].fielded
            and any(g.chunks[i].listed for g in groups)
            and all(g.chunks[i].plain for g in groups)
        )

    def bounds(self, name: str) -> Bounds | None:
        """Statistics of a flat column over all row groups; None where they are unknown."""
        if not self._is_flat(name):
            return None
        first = self.footer.columns[name][0]
        leaf = self.footer.leaves[first]
        chunks = [group.chunks[first] for group in self.footer.groups]
        bounds = [None if c.nulls is None else Bounds(c.nulls, *(c.ends(leaf) or (None, None))) for c in chunks]
        return joined_bounds(bounds, [group.rows for group in self.footer.groups])

    def _is_flat(self, name: str) -> bool:
        first, size = self.footer.columns[name]
        leaf = self.footer.leaves[first]
        return size == 1 and not leaf.repeated and len(leaf.path) == 1

    def arrays(self, name: str) -> Iterator[Array]:
        """A column as Arrow arrays of consecutive rows."""
        leaves = range(self.footer.columns[name][0], sum(self.footer.columns[name]))
        sizes = PageSizes()
        text = 0
        with self._path.open("rb") as file:
            for groups in self._batches(_TOGETHER if self._is_flat(name) else 0):  # pyarrow cannot join nested ones
                pieces = [self._checked(file, g, leaf, sizes) for g in groups for leaf in leaves]
                with self._bytes.holding(pieces):
                    for array in self._decoded(groups, leaves, sizes):
                        text += array.nbytes if sizes.text else 0
                        check_text(text, self.footer.size)
                        yield array

    def _batches(self, most: int) -> Iterator[list[int]]:
        """The numbers of row groups, several together where they have `most` rows or fewer."""
        batch: list[int] = []
        rows = 0
        for number, group in enumerate(self.footer.groups):
            if batch and rows + group.rows > most:
                yield batch
                batch, rows = [], 0
            batch.append(number)
            rows += group.rows
        if batch:
            yield batch

    def _checked(self, file: BinaryIO, group: int, leaf: int, sizes: PageSizes) -> tuple[int, bytes]:
        """(position, bytes) of a chunk whose pages are as large as they should be."""
        chunk = self.footer.groups[group].chunks[leaf]
        data = os.pread(file.fileno(), chunk.size, chunk.start)
        if len(data) < chunk.size:
            raise Damaged("the file became shorter while it was read")
        check_pages(data, chunk, self.footer.leaves[leaf], sizes, self.footer.size)
        return chunk.start, data

    def _decoded(self, groups: list[int], leaves: Sequence[int], sizes: PageSizes) -> Iterator[Array]:
        """The rows of some row groups, all at once, or so many at a time that their text stays small."""
        indices = list(leaves)
        listed = all(i in self._listed or self.footer.leaves[i].width for i in leaves)
        longest = max(sizes.longest_chained, 0 if listed else sizes.longest_listed)
        if not longest:
            table = self._reader.read_row_groups(groups, column_indices=indices, use_threads=False)
            yield from table.column(0).chunks
            return
        rows = max(1, min(_TOGETHER, _MOST_TEXT // longest))
        for batch in self._reader.iter_batches(rows, groups, column_indices=indices, use_threads=False):
            yield batch.column(0)


class _CheckedBytes:
    """The file as pyarrow sees it: only bytes that were checked before."""

    closed = False

    def __init__(self, footer: Footer) -> None:
        self._size, self._at = footer.size, 0
        self._pieces: list[tuple[int, bytes]] = []
        self._file: BinaryIO | None = None

    @contextmanager
    def opened(self, file: BinaryIO) -> Generator[None]:
        """While the footer is read, all of the file."""
        self._file = file
        try:
            yield
        finally:
            self._file = None

    @contextmanager
    def holding(self, pieces: list[tuple[int, bytes]]) -> Generator[None]:
        """While pages are read, these (position, bytes)."""
        self._pieces = sorted(pieces)
        try:
            yield
        finally:
            self._pieces = []

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """As of a file."""
        return self._at

    def read(self, size: int) -> bytes:
        """The next `size` bytes. Raises OSError where they were not checked."""
        at = self._at
        self._at += size
        if self._file is not None:
            return os.pread(self._file.fileno(), size, at)
        number = bisect_right(self._pieces, at, key=itemgetter(0)) - 1
        start, data = self._pieces[number] if number >= 0 else (0, b"")
        if at + size <= start + len(data):
            return data if size == len(data) else data[at - start : at - start + size]
        raise OSError(f"bytes {at:,} to {at + size:,} belong to no page of the column")

    def readable(self) -> bool:
        """As of a file."""
        return True
