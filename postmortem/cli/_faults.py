"""What a file, a disk, a terminal or the memory can do to a command, as one of our own errors: the one such table.

Readers and writers explain what they meet themselves, with the file and a hint. Here is what remains, wherever it comes
from: a library that names no file, a disk that fails in the middle of a read, a standard output that is full or closed.
"""

from __future__ import annotations

import errno
import os
import sys
import zipfile
from contextlib import suppress

from postmortem.errors import CannotWrite, InternalError, PostmortemError, UnreadableInput
from postmortem.text import plain

DEBUG = "POSTMORTEM_DEBUG"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})  # only writing meets these
_ENDED = frozenset({errno.EBADF, errno.EIO, errno.ENXIO})  # without a file's name: a stream that was closed or hung up


def as_ours(error: Exception) -> PostmortemError:
    """The error of ours that says what `error` means to a user; InternalError where no file or device can cause it."""
    if isinstance(error, PostmortemError):
        return error
    if isinstance(error, OSError):
        return _of_system(error)
    reason = _reason(error)
    if reason:
        return UnreadableInput(f"{reason} ({_detail(error)}).", hint=f"{DEBUG}=1 shows where.")
    from postmortem.discovery import plugin_error

    defect = InternalError(f"internal error, please report it ({_detail(error)}). {DEBUG}=1 shows where.")
    return plugin_error(error) or defect


def _of_system(error: OSError) -> PostmortemError:
    reason = plain(error.strerror or _detail(error), 200)
    if error.filename is None:
        if error.errno in _FULL:
            return CannotWrite(f"the standard output cannot be written ({reason}). Send it to a place with space.")
        if error.errno in _ENDED:
            return CannotWrite(f"the standard output is closed ({reason}). Send it to a file, or to a terminal.")
        return UnreadableInput(f"reading failed ({reason}).", hint=f"{DEBUG}=1 shows where.")
    name = plain(os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename, 300)
    if error.errno in _FULL:
        return CannotWrite(f"{name}: cannot be written ({reason}). Free some space, or choose another place.")
    return UnreadableInput(f"cannot be read ({reason}).", file=name)


def _reason(error: Exception) -> str:
    """What an error of Python or of a library says about the input; "" where it says nothing about it."""
    arrow = sys.modules.get("pyarrow")
    if isinstance(error, MemoryError):
        return "the input needs more memory than there is"
    if isinstance(error, RecursionError):
        return "the input is nested too deeply"
    if isinstance(error, UnicodeError):
        return "a name or text in the input is not valid Unicode"
    if isinstance(error, (EOFError, zipfile.BadZipFile)):
        return "a file of the input is cut short or damaged"
    if arrow is not None and isinstance(error, arrow.ArrowException):
        return "a Parquet file of the input is damaged"
    if isinstance(error, RuntimeError) and "Symlink loop" in str(error):  # Path.resolve, up to Python 3.12
        return "a link in the input leads to itself"
    return "a path in the input is not valid" if "null byte" in str(error) or "null character" in str(error) else ""


def _detail(error: Exception) -> str:
    return plain(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, 300)


def open_closed_streams() -> None:
    """Give a process that was started without a standard stream one: a file opened later must not take its number.

    What is written to a missing standard output fails, as to a full one; what is written to a missing standard error
    goes nowhere.
    """
    for number, name, access, mode in (
        (0, "stdin", os.O_RDONLY, "r"),
        (1, "stdout", os.O_RDONLY, "w"),
        (2, "stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, access)
            if handle != number and not _is_open(number):
                os.dup2(handle, number)
                os.close(handle)
                handle = number
            setattr(sys, name, os.fdopen(handle, mode, encoding="utf-8", closefd=False))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def flush_output() -> PostmortemError | None:
    """Write what the standard output still holds; the error where that fails, None where all is well or the reader (as
    `| head`) has read enough.

    After a failure nothing may be flushed again when Python ends: it would fail again, and say so.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None if isinstance(error, BrokenPipeError) else as_ours(error)
    return None
