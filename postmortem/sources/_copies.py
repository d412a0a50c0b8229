"""Temporary copies of logs that no reader can open as they are: gzipped files, and the standard input.

A copy is a plain file, so that every format is read from it, also those that jump to and fro in a file. It is bounded:
a few bytes of gzip can ask for a thousand times as many.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TextIO

from postmortem.atomic import put_all
from postmortem.errors import CannotWrite, UnreadableInput, UsageError
from postmortem.small_file import open_regular
from postmortem.text import plain

MOST_BYTES = 2 * 2**30
"""Bytes of a copy."""

MOST_RATIO, ALWAYS_BYTES = 50, 24 * 2**20
"""Times that a gzipped log may grow, where it has more than so many bytes: logs grow by 3 to 20."""

STDIN, STDIN_NAME = "-", "standard input"
_MAGIC = b"\x1f\x8b\x08"
_BLOCK = 2**20  # bytes


@dataclass(frozen=True, eq=False)
class Copy:
    """A file in a temporary folder, which is removed when nothing refers to this object any more, or at the end.

    `notes` say what could not be copied."""

    path: Path
    notes: list[str] = field(default_factory=list[str])


def is_gzip(head: bytes) -> bool:
    """Whether a file that begins with `head` is gzipped."""
    return head.startswith(_MAGIC)


def unpacked_head(head: bytes, most: int) -> bytes:
    """The first `most` bytes of what is gzipped in a file that begins with `head`, as far as they can be unpacked."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, most)
    except zlib.error:
        return b""


def unpacked_name(name: str) -> str:
    """The name of a gzipped file without `.gz`."""
    return name[:-3] if name.lower().endswith(".gz") and len(name) > 3 else name


def shown_path(path: Path) -> Path:
    """The path by which a run from `path` is known; that of the standard input is one in the current directory."""
    return Path(STDIN_NAME.replace(" ", "-")) if str(path) == STDIN else path


def copy_of(path: Path) -> Copy | None:
    """A plain copy of the standard input where `path` is `-`, or of a gzipped file; None where a path can be read as it
    is.

    Raises:
        UsageError: the standard input is a terminal.
        UnreadableInput: it is empty, or a copy would be too large, or damaged gzip.
        CannotWrite: the temporary folder has no space.
        OSError: the file cannot be read.
    """
    if str(path) == STDIN:
        copy = _copy_of_stdin()
        packed = _unpacked(copy.path, STDIN_NAME)
        return copy if packed is None else packed
    return _unpacked(path, plain(path.name, 120)) if path.is_file() else None


def _copy_of_stdin() -> Copy:
    stdin: TextIO | None = sys.stdin
    if stdin is None or stdin.isatty():
        state = "closed" if stdin is None else "a terminal"
        raise UsageError(f"- reads a log from the standard input, which is {state}. Example: draft - < train.log")
    blocks = iter(lambda: stdin.buffer.read(_BLOCK), b"")
    copy = _copy(STDIN_NAME, STDIN_NAME, blocks, MOST_BYTES, "Save it in a file, and name the file.")
    if not copy.path.stat().st_size:
        raise UnreadableInput("it is empty (0 bytes).", file=STDIN_NAME)
    return copy


def with_header(path: Path, header: bytes) -> Copy:
    """A copy of the log at `path` that begins with the line `header`. Raises what `copy_of` raises."""
    name = plain(path.name, 120)
    unpacked = copy_of(path)
    with open_regular(path if unpacked is None else unpacked.path, name) as file:
        blocks = chain([header], iter(lambda: file.read(_BLOCK), b""))
        copy = _copy(unpacked_name(path.name), name, blocks, MOST_BYTES, "Give it a header, and its own name.")
    copy.notes.extend(() if unpacked is None else unpacked.notes)
    return copy


def _unpacked(path: Path, name: str) -> Copy | None:
    with open_regular(path, name) as file:
        if not is_gzip(file.read(len(_MAGIC))):
            return None
        file.seek(0)
        most = min(MOST_BYTES, max(ALWAYS_BYTES, MOST_RATIO * os.fstat(file.fileno()).st_size))
        notes: list[str] = []
        blocks = _unpacked_blocks(file, name, notes.append)
        copy = _copy(unpacked_name(path.name), name, blocks, most, "Unpack it first: gunzip -k FILE")
    if not copy.path.stat().st_size:
        raise UnreadableInput("nothing can be unpacked from it.", file=name)
    copy.notes.extend(notes)
    return copy


def _unpacked_blocks(file: BinaryIO, name: str, note: Callable[[str], object]) -> Iterator[bytes]:
    """What is gzipped in `file`, in pieces: all members of it. A stream that is cut short ends where it does.

    Raises:
        UnreadableInput: damaged gzip.
    """
    member = None
    while data := file.read(_BLOCK):
        while data:
            if member is None:
                data = data.lstrip(b"\0")  # some disks and tapes fill up their last block
                if not data:
                    break
                if not data.startswith(_MAGIC[: len(data)]):
                    note(f"{name}: what follows the gzipped data was ignored")
                    return
                member = zlib.decompressobj(wbits=31)
            try:
                yield member.decompress(data, _BLOCK)
            except zlib.error as error:
                raise UnreadableInput(f"is damaged gzip ({plain(error, 120)}).", file=name) from error
            data = member.unused_data if member.eof else member.unconsumed_tail
            member = None if member.eof else member
    if member is not None:
        yield member.flush()
        note(f"{name}: its gzip stream is cut short: what could be unpacked is read")


def _copy(file_name: str, name: str, blocks: Iterator[bytes], most: int, hint: str) -> Copy:
    """`blocks` as a file of a new temporary folder; `name` names the input in messages.

    Raises:
        UnreadableInput: more than `most` bytes.
        CannotWrite: no space for them.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="postmortem-"))
    except OSError as error:
        raise _no_space(error) from error
    copy = Copy(folder / file_name)
    weakref.finalize(copy, _remove, folder, os.getpid())
    size, when = 0, "" if name == STDIN_NAME else " when it is unpacked"
    handle = os.open(copy.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for block in blocks:
            size += len(block)
            if size > most:
                raise UnreadableInput(f"more than {most >> 20:,} MiB{when}.", file=name, hint=hint)
            try:
                put_all(handle, block)
            except OSError as error:
                raise _no_space(error) from error
    finally:
        os.close(handle)
    return copy


def _no_space(error: OSError) -> CannotWrite:
    return CannotWrite(
        f"{plain(tempfile.gettempdir(), 1000)}: no room for a temporary copy of the log "
        f"({plain(error.strerror or error, 120)}). Free some space, or set TMPDIR to a folder that has it."
    )


def _remove(folder: Path, process: int) -> None:
    """Remove a copy, unless this is a fork of the process that made it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
