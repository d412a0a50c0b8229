"""A disk that fails at one chosen call: the calls of a save are counted first, then each of them fails in turn.

Below whatever door the package writes through: `os` and `io` themselves. What only reads, closes or removes is left
alone; what is outside `root` as well.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from postmortem import atomic

SHORT = 0
"""Instead of an errno: the system takes only half of the bytes, and the rest with the next call."""
_WITH_PATHS = {"mkdir": 0, "rename": 1, "replace": 1, "link": 1, "symlink": 1}
_WITH_HANDLES = ("write", "fsync", "ftruncate")


class FailingDisk:
    """Counts the calls that change something below `root`; call `fail_at` (from 0) fails with `error`, and with
    `lasting` every later one, too. `calls` names them."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self.calls: list[str] = []
        self.fail_at: int | None = None
        self.error, self.lasting, self.watching = errno.ENOSPC, False, False

    def different_calls(self) -> list[int]:
        """The numbers of the counted calls; of one call that is made many times, the first and the last."""
        last = {call: number for number, call in enumerate(self.calls)}
        return [n for n, call in enumerate(self.calls) if n in (last[call], self.calls.index(call))]

    def fails(self, call: str, path: object) -> bool:
        """Count one call; whether it has to fail."""
        if not self.watching or not self._is_inside(path):
            return False
        number = len(self.calls)
        self.calls.append(f"{call} {Path(str(name_of(path) if isinstance(path, int) else path)).name}")
        return self.fail_at is not None and (number == self.fail_at or (self.lasting and number > self.fail_at))

    def check(self, call: str, path: object) -> None:
        """Count one call, and raise where it has to fail."""
        if self.fails(call, path):
            self.refuse()

    def refuse(self) -> None:
        error = self.error or errno.ENOSPC
        raise OSError(error, os.strerror(error))

    def _is_inside(self, path: object) -> bool:
        if isinstance(path, int):
            path = name_of(path)
        return isinstance(path, (str, os.PathLike)) and os.path.realpath(path).startswith(self._root + os.sep)


def name_of(handle: int) -> str | None:
    """The path of an open file, where the system tells it."""
    try:
        return str(Path(f"/proc/self/fd/{handle}").readlink())
    except OSError:
        return None


class _File:
    """A file that is open for writing, whose writes, flushes and closing can fail."""

    def __init__(self, file: Any, path: object, disk: FailingDisk) -> None:
        self._file, self._path, self._disk = file, path, disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._disk.check("close", self._path)
        finally:
            self._file.__exit__(*error)

    def close(self) -> None:
        if self._file.closed:
            return
        try:
            self._disk.check("close", self._path)
        finally:
            self._file.close()

    def write(self, data: Any) -> int:
        self._disk.check("write", self._path)
        return self._file.write(data)

    def flush(self) -> None:
        self._disk.check("flush", self._path)
        self._file.flush()


@contextmanager
def failing_disk(root: Path, *, watching: bool = True) -> Iterator[FailingDisk]:
    """A disk below `root` that is counted, and fails as its attributes say, while it is `watching` in this block."""
    disk = FailingDisk(root)
    calls = {name: _by_path(disk, name, getattr(os, name), position) for name, position in _WITH_PATHS.items()}
    calls |= {name: _by_handle(disk, name, getattr(os, name)) for name in _WITH_HANDLES}
    calls["open"] = _low_level_open(disk, os.open)
    with pytest.MonkeyPatch.context() as patch:
        for name, call in calls.items():
            real = getattr(os, name)
            patch.setattr(os, name, call)
            for key in [key for key, value in vars(atomic).items() if value is real]:  # the door's own names for them
                patch.setattr(atomic, key, call)
        opened = _high_level_open(disk, builtins.open)
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        disk.watching = watching
        yield disk
        disk.watching = False


def _by_path(disk: FailingDisk, name: str, real: Callable[..., Any], position: int) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        disk.check(name, args[position])
        return real(*args, **kwargs)

    return call


def _by_handle(disk: FailingDisk, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(handle: int, *args: Any) -> Any:
        if disk.fails(name, name_of(handle)):
            if disk.error == SHORT and name == "write" and len(args[0]) > 1:
                return real(handle, bytes(args[0])[: len(args[0]) // 2])
            if disk.error != SHORT:
                disk.refuse()
        return real(handle, *args)

    return call


def _low_level_open(disk: FailingDisk, real: Callable[..., int]) -> Callable[..., int]:
    def call(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            disk.check("open", path)
        return real(path, flags, *args, **kwargs)

    return call


def _high_level_open(disk: FailingDisk, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode).isdisjoint("wax+"):
            return real(file, mode, *args, **kwargs)
        path = name_of(file) if isinstance(file, int) else file
        if not isinstance(file, int):
            disk.check("open", path)
        opened = real(file, mode, *args, **kwargs)
        return _File(opened, path, disk) if disk.watching else opened

    return call


def temporary_names(folder: Path) -> list[str]:
    """Whatever looks like a stage, a temporary file or a lock below `folder`."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    return [name for name in names if name.rsplit("/")[-1] != ".metadata" and ("/." in f"/{name}" or ".tmp" in name)]
