"""The lock of a run's writer: one process may write each rank."""

from __future__ import annotations

import os
import socket
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from postmortem.atomic import is_same_file, try_lock
from postmortem.errors import UsageError
from postmortem.jsonio import build_from, strict_json
from postmortem.small_file import parse_json
from postmortem.text import plain

try:
    import fcntl
except ImportError:  # not a POSIX system: there is no lock
    fcntl = None


@dataclass(frozen=True)
class _Holder:
    """What the lock file says about the process that has it; `since` in unix seconds."""

    pid: int
    host: str
    since: float
    attempt: int


class WriterLock:
    """The right to write as one rank: a lock that the system releases when the process ends, in whatever way."""

    def __init__(self, run: Path, rank: int) -> None:
        """Take the lock of `rank`.

        Raises:
            UsageError: another process or recorder has it; the message says which, and since when.
        """
        self._path = lock_path(run, rank)
        self._handle = -1
        while self._handle < 0:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            if try_lock(handle) is False:
                holder = _read_holder(handle)
                os.close(handle)
                raise UsageError(_refusal(run, rank, holder))
            if is_same_file(handle, self._path):
                self._handle = handle
            else:  # its last holder removed the file between our opening and our locking it
                os.close(handle)
        try:
            os.ftruncate(self._handle, 0)
        except OSError:  # or nobody could write here until this process ends, which tries again
            self.release()
            raise

    def announce(self, attempt: int) -> None:
        """Write into the lock file which process has it, and for which attempt."""
        holder = _Holder(os.getpid(), socket.gethostname(), time.time(), attempt)
        os.pwrite(self._handle, strict_json(holder).encode(), 0)

    def release(self) -> None:
        """Release the lock and remove its file."""
        if self._handle >= 0:
            try:
                self._path.unlink(missing_ok=True)
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Close the file; the lock stays with the parent process, which shares it since a fork."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def after_fork(callback: Callable[[], None]) -> None:
    """Call `callback`, a bound method, in every process forked from this one while its object lives."""
    method = weakref.WeakMethod(callback)

    def forked() -> None:
        living_callback = method()
        if living_callback is not None:
            living_callback()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forked)


def lock_path(run: Path, rank: int) -> Path:
    """The lock file of `rank`."""
    return run / f".writer-{rank}.lock"


def attempt_of_writer(run: Path, rank: int, patience_s: float = 1.0) -> int | None:
    """The attempt of the living process that writes `rank`; None if there is none."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            handle = os.open(lock_path(run, rank), os.O_RDONLY | os.O_NONBLOCK)  # a pipe is not waited for
        except OSError:
            return None
        try:
            if not _is_locked(handle):
                return None
            holder = _read_holder(handle)
        finally:
            os.close(handle)
        if holder is not None:
            return holder.attempt
        time.sleep(0.02)  # it has the lock, but has not counted the attempt yet
    return None


def _is_locked(handle: int) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that ask at once are no holders to each other
    except OSError:  # or there are no locks here, and its file has to do
        return True
    fcntl.flock(handle, fcntl.LOCK_UN)
    return False


def _read_holder(handle: int) -> _Holder | None:
    """Who has the lock; None where the holder has not written it yet."""
    try:
        return build_from(_Holder, parse_json(os.pread(handle, 4096, 0).decode()))
    except (OSError, TypeError, ValueError):
        return None


def _refusal(run: Path, rank: int, holder: _Holder | None) -> str:
    if holder is None:
        who = "another process"
    else:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
        who = f"process {holder.pid} on {plain(holder.host, 80)} since {since}"
    return (
        f"{plain(run, 1000)}: rank {rank} is already being recorded here by {who}. "
        "Give this run another directory, or end that process."
    )
