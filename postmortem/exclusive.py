"""Lets one process at a time read a file and replace it: what two of them add to one file is not lost."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from postmortem.atomic import check_inside, is_same_file, remove_file, try_lock

_TURN_S = 30.0  # that a command waits for its turn


@contextmanager
def exclusive(path: Path, *, within: Path | None = None) -> Generator[None]:
    """Let one process at a time read the file `path` and replace it by `atomic.write_bytes`. A file that does not exist
    is made empty, and removed again if nothing replaces it.

    Raises:
        CannotWrite: the path leads outside `within`.
        OSError: it cannot be opened, or another process keeps it for more than `_TURN_S`.
    """
    check_inside(path, within)
    is_new = not path.exists()
    handle = _open_locked(path)
    try:
        yield
    finally:
        if is_new and is_same_file(handle, path) and not os.fstat(handle).st_size:
            remove_file(path)
        os.close(handle)


def _open_locked(path: Path) -> int:
    """A handle of the file that `path` names, with its lock. Whoever had the lock before may have replaced the file."""
    deadline = time.monotonic() + _TURN_S
    while True:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o666)
        if try_lock(handle) is not False and is_same_file(handle, path):
            return handle
        os.close(handle)
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, "another process is writing it", str(path))
        time.sleep(0.01)
