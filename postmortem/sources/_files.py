"""Checks on a file before it is read, and its name for messages."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from postmortem.errors import UnreadableInput
from postmortem.small_file import open_regular
from postmortem.text import plain

_BLOCK = 2**20  # bytes


def display_name(path: Path) -> str:
    """A file's name, harmless, for messages and notes."""
    return plain(path.name, 120)


def require_file(path: Path, name: str) -> None:
    """Refuse a path that is no regular file with content; `name` names it in the message.

    Raises:
        UnreadableInput: a directory, a pipe or device, an empty file.
    """
    with open_regular(path, name) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise UnreadableInput("the file is empty (0 bytes).", file=name)


def require_text(path: Path, name: str) -> None:
    """Refuse a file that is no UTF-8 text, with the line; `name` names it in the message.

    Raises:
        UnreadableInput: NUL bytes, or bytes that are not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with open_regular(path, name) as file:
        while block := file.read(_BLOCK):
            nul = block.find(b"\0")
            if nul >= 0:
                raise UnreadableInput("binary data, not text.", file=name, line=line + block.count(b"\n", 0, nul))
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                bad_line = line + block.count(b"\n", 0, max(error.start, 0))
                raise UnreadableInput("not UTF-8 text.", file=name, line=bad_line) from error
            line += block.count(b"\n")
