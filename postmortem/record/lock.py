"""Who may write a run: one process for each rank."""

from __future__ import annotations

import json
import os
import socket
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from postmortem.errors import UsageError
from postmortem.record.writer import is_at
from postmortem.text import plain

try:
    import fcntl
except ImportError:  # not a POSIX system: nobody is kept out
    fcntl = None


class WriterLock:
    """The right to write as one rank: a lock that the system releases when the process ends, however it ends."""

    def __init__(self, run: Path, rank: int) -> None:
        """Take the lock of `rank`.

        Raises:
            UsageError: another process or recorder holds it; the message says which, and since when.
        """
        self._path = lock_path(run, rank)
        self._handle = -1
        while self._handle < 0:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if fcntl is not None:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _content(handle)
                os.close(handle)
                raise UsageError(_refusal(run, rank, holder)) from error
            if is_at(handle, self._path):
                self._handle = handle
            else:  # its last holder removed the file between our opening and our locking it
                os.close(handle)
        os.ftruncate(self._handle, 0)

    def announce(self, attempt: int) -> None:
        """Write into the lock who holds it, and for which attempt."""
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), "attempt": attempt}
        os.pwrite(self._handle, json.dumps(who).encode(), 0)

    def release(self) -> None:
        """Give the right up and remove the file."""
        if self._handle >= 0:
            self._path.unlink(missing_ok=True)
            self.abandon()

    def abandon(self) -> None:
        """Close the file and leave the lock to the process that shares it with us since a fork."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def after_fork(leave: Callable[[], None]) -> None:
    """Have `leave`, a bound method, called in every process forked from this one while its object lives."""
    method = weakref.WeakMethod(leave)

    def forked() -> None:
        living = method()
        if living is not None:
            living()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forked)


def lock_path(run: Path, rank: int) -> Path:
    """The lock file of `rank`."""
    return run / f".writer-{rank}.lock"


def attempt_of_holder(run: Path, rank: int, patience_s: float = 1.0) -> int | None:
    """The attempt at which a living process writes `rank`; None where there is no such process."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        try:
            handle = os.open(lock_path(run, rank), os.O_RDONLY)
        except OSError:
            return None
        try:
            if not _is_locked(handle):
                return None
            attempt = _content(handle).get("attempt")
        finally:
            os.close(handle)
        if isinstance(attempt, int):
            return attempt
        time.sleep(0.02)  # it has the lock and is still counting
    return None


def _is_locked(handle: int) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(handle, fcntl.LOCK_UN)
    return False


def _content(handle: int) -> dict[str, Any]:
    try:
        value = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _refusal(run: Path, rank: int, holder: Mapping[str, Any]) -> str:
    since = holder.get("since")
    when = time.strftime(" since %Y-%m-%d %H:%M:%S", time.localtime(since)) if isinstance(since, float) else ""
    who = f"process {plain(holder.get('pid', '?'), 20)} on {plain(holder.get('host', '?'), 80)}"
    return (
        f"{plain(run, 1000)}: rank {rank} is already being recorded here by {who}{when}. "
        "Give this run another directory, or end that process."
    )
