"""The one door through which a command writes: completely or not at all, inside the run, and with one kind of error.

- What is written appears under a temporary name first, and gets its own name by one rename. So a reader never meets
  half a file, and a `kill -9` leaves at most a *stage*: a file or folder with a temporary name.
- The process that fills a stage holds a lock on it, which the system releases when that process ends in whatever way.
  The next writer of the same place removes the stages that nobody holds (`_is_abandoned` says when exactly). A process
  id in the name would not do: ids are used again, and mean nothing in another container or on another machine.
- `within` is the folder that a place must not leave: the run, where the tool itself chose the place, because a
  stranger's run may contain a link to anywhere. None means that a person named the place; their links are followed.
- `saving` turns what the system says into the errors that people see.

What is written reaches the disk through `_write`, `_fsync` and `_replace`, so that tests can let each of them fail.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
import time
import zlib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from postmortem.errors import CannotWrite, PostmortemError, UsageError
from postmortem.text import plain

try:
    import fcntl
except ImportError:  # not a POSIX system: there are no locks
    fcntl = None

OUT = "--out DIR"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONGEST_STEM = 40  # characters of a place's name in the names of its stages: those must fit into 255 bytes
_PATIENCE_S = 3600.0  # until a stage is abandoned whose lock says nothing
_STAGE = re.compile(
    r"\.(?P<stem>.+?)\.(?:(?P<host>[0-9a-f]{8})\.)?[a-z0-9_]{8}\.(?:tmp|draft)"
    r"|\.(?P<old_stem>.+)\.tmp-\d+"  # of a replay, as earlier versions named it
)


# --- what reaches the disk -------------------------------------------------------------------------------------------


def _write(handle: int, data: bytes | memoryview) -> int:
    return os.write(handle, data)


def _fsync(handle: int) -> None:
    os.fsync(handle)


def _replace(source: Path, target: Path) -> None:
    source.replace(target)


def sync(handle: int) -> None:
    """Wait until an open file or folder is on the disk. Raises OSError."""
    _fsync(handle)


def move(source: Path, target: Path) -> None:
    """Give a file or folder another name, in place of a file that has it. Raises OSError."""
    _replace(source, target)


def sync_folder(folder: Path) -> None:
    """fsync a directory, so that a rename in it survives a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        sync(handle)
    finally:
        os.close(handle)


def put_all(handle: int, data: bytes) -> None:
    """Write all of `data`, however few bytes the system takes at a time. Raises OSError."""
    rest = memoryview(data)
    while rest:
        written = _write(handle, rest)
        if not written:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rest = rest[written:]


def append_to(handle: int, data: bytes, size: int) -> None:
    """Append to an open file of `size` bytes by a single write, so that other writers' lines stay whole.

    Raises:
        OSError: nothing was appended: a write that the system cut short is undone, if it lets us.
    """
    written, problem = 0, None
    try:
        written = _write(handle, data)
    except OSError as error:
        problem = error
    if written != len(data):
        with suppress(OSError):
            os.ftruncate(handle, size)
        raise problem or OSError(f"only {written} of {len(data)} bytes could be written")


# --- files and folders -----------------------------------------------------------------------------------------------


def write_bytes(path: Path, data: bytes, *, within: Path | None = None) -> None:
    """Replace `path` with `data` by temporary file, fsync and rename, so that no reader gets half of it.

    Raises:
        CannotWrite: the path leads outside `within`.
        OSError: it cannot be written, and is as it was.
    """
    check_inside(path, within)
    _sweep(path.parent, path.name)
    stage, handle = _new_stage(path.parent, path.name, ".tmp", is_folder=False)
    try:
        try:
            put_all(handle, data)
            sync(handle)
            stage.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~umask())
            if fcntl is not None:
                move(stage, path)  # with the lock, or somebody could sweep it at the last moment
        finally:
            os.close(handle)
        if fcntl is None:
            move(stage, path)
    except BaseException:
        stage.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, within: Path | None = None) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode(), within=within)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that does not exist yet, in a folder that nobody reads yet. Raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        put_all(handle, data)
    finally:
        os.close(handle)


def append(path: Path, data: bytes, *, within: Path | None = None) -> None:
    """Append to `path`, whole or not at all; it is made if it does not exist.

    Raises:
        CannotWrite: the path leads outside `within`.
        OSError: nothing was appended.
    """
    check_inside(path, within)
    is_new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        append_to(handle, data, os.fstat(handle).st_size)
    except OSError:
        if is_new and not os.fstat(handle).st_size:
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def make_folder(path: Path, *, within: Path | None = None) -> None:
    """Make a folder and those above it, unless they exist. Raises CannotWrite outside `within`, and OSError."""
    check_inside(path, within)
    path.mkdir(parents=True, exist_ok=True)


def copy_file(source: Path, target: Path, *, link: bool = False) -> None:
    """Copy a file; with `link`, only give it a second name where the file system can. Raises OSError."""
    if link:
        with suppress(OSError):  # the target is on another file system, or on one without links
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def remove_file(path: Path) -> None:
    """Remove a file, if there is one. Raises OSError."""
    path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder with all that is in it: by one rename it is gone, however long the rest takes. Raises OSError."""
    with staged(path) as stage:
        move(path, stage / "removed")


@contextmanager
def staged(place: Path, suffix: str = ".tmp", *, folder: Path | None = None) -> Generator[Path]:
    """A new folder with a temporary name in `folder` (None: the one of `place`), to be filled and then moved to
    `place`; what is left of it in the end is removed. Stages of `place` that others abandoned are removed first.

    Raises:
        OSError: it cannot be made.
    """
    for swept in {place.parent, folder or place.parent}:
        _sweep(swept, place.name)
    stage, handle = _new_stage(folder or place.parent, place.name, suffix, is_folder=True)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if handle >= 0:
            os.close(handle)


def put_folder(stage: Path, place: Path) -> None:
    """Move a staged folder to `place`, instead of a folder that is there. Raises OSError: that one is still there."""
    stage.chmod(0o777 & ~umask())
    if not place.exists():
        move(stage, place)
        return
    with staged(place) as aside:
        old = aside / "replaced"
        move(place, old)
        try:
            move(stage, place)
        except OSError:
            move(old, place)
            raise


def names_in(folder: Path) -> set[str]:
    """The names in a folder, without the stages that writers have there at present or left behind. Raises OSError."""
    return {path.name for path in folder.iterdir() if not _STAGE.fullmatch(path.name)}


def umask() -> int:
    """The permission bits that this process removes from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def is_same_file(handle: int, path: Path) -> bool:
    """Whether the open file is the file that `path` names now."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(handle)
    return (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)


# --- the errors that people see --------------------------------------------------------------------------------------


@contextmanager
def saving(place: Path, *, within: Path | None = None, option: str = OUT) -> Generator[None]:
    """Check that a result may go to `place`, and turn every OSError of writing it into one message.

    `option` is how a person names another place on the command line, "" if they cannot.

    Raises:
        CannotWrite: the disk is full, the place belongs to somebody else, or leads outside `within`.
        UsageError: no file can have that name.
    """
    try:
        try:
            os.fsencode(place)
            with suppress(FileNotFoundError):
                place.lstat()
        except ValueError as error:  # a null character, or half a surrogate pair
            raise UsageError(f"{plain(place, 1000)}: is no name of a file. {_elsewhere(option)}") from error
        check_inside(place, within, option)
        yield
    except OSError as error:
        raise _write_error(place, error, option) from error


def check_place(place: Path, *, within: Path | None = None, option: str = OUT) -> None:
    """Raise what `saving` would raise about `place` before anything is written."""
    with saving(place, within=within, option=option):
        pass


def check_inside(place: Path, within: Path | None, option: str = "") -> None:
    """Raise CannotWrite where `place` leads outside the folder `within`, by a link in its path or by being one."""
    if within is not None and not real_path(place).is_relative_to(real_path(within)):
        raise CannotWrite(
            f"{plain(place, 1000)}: leads outside the run's folder {plain(within, 1000)}, so nothing is written. "
            f"Remove the link{f', or choose another place with {option}' if option else ''}."
        )


def real_path(path: Path) -> Path:
    """`path` without links, as far as it exists. Unlike `Path.resolve`, it never raises."""
    return Path(os.path.realpath(path))


def _write_error(place: Path, error: OSError, option: str) -> PostmortemError:
    named = next((name for name in (error.filename2, error.filename) if isinstance(name, (str, Path))), place)
    is_stage = any(map(_STAGE.fullmatch, Path(named).parts))
    where = plain(place if is_stage or error.errno in _FULL else named, 1000)
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(f"{where}: this name is too long for a file. {_elsewhere(option)}")
    advice = _elsewhere(option)
    if error.errno in _FULL:
        advice = f"Free some space{f', or choose another place with {option}' if option else ''}."
    return CannotWrite(f"{where}: cannot be written ({error.strerror or plain(error, 200)}). {advice}")


def _elsewhere(option: str) -> str:
    return f"Choose another place with {option}." if option else "Make it writable, or work on a copy of the run."


# --- stages ----------------------------------------------------------------------------------------------------------


def _new_stage(folder: Path, name: str, suffix: str, *, is_folder: bool) -> tuple[Path, int]:
    """(path, open handle with the lock) of a new stage of `name`; the handle is -1 for a folder without POSIX."""
    prefix = f".{name[:_LONGEST_STEM]}.{_host()}."
    while True:
        if not is_folder:
            handle, stage = tempfile.mkstemp(suffix, prefix, folder)
        else:
            stage = tempfile.mkdtemp(suffix, prefix, folder)
            if fcntl is None:
                return Path(stage), -1
            try:
                handle = os.open(stage, os.O_RDONLY)
            except FileNotFoundError:  # swept before we could lock it
                continue
        if try_lock(handle) is not False and is_same_file(handle, Path(stage)):
            return Path(stage), handle
        os.close(handle)


def _sweep(folder: Path, name: str) -> None:
    """Remove the abandoned stages of `name` in `folder`, as far as possible: it never raises."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _STAGE.fullmatch(entry.name) if entry.name.startswith(".") else None
            if match is not None and (match["stem"] or match["old_stem"]) == name[:_LONGEST_STEM]:
                with suppress(OSError):
                    _remove_if_abandoned(Path(entry.path), match["host"])


def _remove_if_abandoned(stage: Path, host: str | None) -> None:
    mode = stage.lstat().st_mode
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):  # of no writer of ours; a link is not followed
        return
    handle = os.open(stage, (os.O_RDONLY if stat.S_ISDIR(mode) else os.O_RDWR) | getattr(os, "O_NOFOLLOW", 0))
    try:
        if not _is_abandoned(handle, host) or not is_same_file(handle, stage):
            return
        if stat.S_ISDIR(mode):
            shutil.rmtree(stage, ignore_errors=True)
        else:
            stage.unlink()
    finally:
        os.close(handle)


def _is_abandoned(handle: int, host: str | None) -> bool:
    """Whether no process fills a stage any more. Its lock says so at once where it was made on this machine, or by an
    earlier version, which locked nothing. Locks of another machine may be invisible here, as on some network file
    systems, and some have no locks at all: then a stage is abandoned when it has not changed for an hour."""
    locked = try_lock(handle)
    if locked is False:
        return False
    if locked and host in (None, _host()):
        return True
    return time.time() - os.fstat(handle).st_mtime > _PATIENCE_S


def try_lock(handle: int) -> bool | None:
    """True: this process has the lock now; False: another one has it; None: there are no locks here."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _host() -> str:
    """Eight hexadecimal digits for this machine."""
    name = os.uname().nodename if hasattr(os, "uname") else ""
    return f"{zlib.crc32(name.encode('utf-8', 'replace')):08x}"
