"""The per-step store: Parquet parts and live JSONL tails, `metrics/` and `batches/` of a run directory."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from postmortem.atomic import move, sync, sync_folder, try_lock
from postmortem.run.arrow import ArrowTable, to_arrow
from postmortem.run.columns import KEYS
from postmortem.run.rows import Chunk

try:
    import fcntl
except ImportError:  # not a POSIX system: there are no locks
    fcntl = None

ROW_GROUP = 32_768  # rows
_PART = re.compile(r"part-(\d+)\.parquet")
_TAIL = re.compile(r"tail-(\d+)-(\d+)\.jsonl")


def parts(folder: Path) -> list[Path]:
    """The Parquet parts of a folder, oldest first."""
    return sorted((p for p in folder.iterdir() if _PART.fullmatch(p.name)), key=lambda p: int(p.stem.split("-")[1]))


def tails(folder: Path) -> list[Path]:
    """The JSONL tails of a folder, in order of (attempt, rank)."""
    return sorted((p for p in folder.iterdir() if _TAIL.fullmatch(p.name)), key=tail_key)


def tail_key(path: Path) -> tuple[int, int]:
    """(attempt, rank) from a tail's name."""
    _, attempt, rank = path.stem.split("-")
    return int(attempt), int(rank)


def arrow_table(chunk: Chunk) -> ArrowTable:
    """A chunk as an Arrow table; key columns are integers."""
    import pyarrow as pa

    return pa.table({name: to_arrow(cells, integers=name in KEYS) for name, cells in chunk.columns.items()})


def write_part(folder: Path, table: ArrowTable) -> Path:
    """Write a new part: temporary file, fsync, rename. Several ranks may do so at once.

    The temporary file is created exclusively, with the part's number in its name: the rank that created it before the
    part exists owns that number. It is locked meanwhile, so that those of killed processes are known, and removed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    floats = [f.name for f in table.schema if pa.types.is_floating(f.type) and "." not in f.name]
    words = [f.name for f in table.schema if pa.types.is_string(f.type) and "." not in f.name]
    _remove_abandoned(folder)
    number = max((int(p.stem.split("-")[1]) for p in parts(folder)), default=0) + 1
    while True:
        final = folder / f"part-{number:06d}.parquet"
        temporary = final.with_suffix(".parquet.tmp")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            number += 1
            continue
        owned = _lock(handle) is not False  # otherwise another rank took it for abandoned; the name is that rank's now
        if owned and not final.exists():
            break
        os.close(handle)
        if owned:
            temporary.unlink(missing_ok=True)
        number += 1
    try:
        with os.fdopen(handle, "wb") as file:
            pq.write_table(
                table,
                file,
                compression="zstd",
                row_group_size=ROW_GROUP,
                use_dictionary=words or False,
                use_byte_stream_split=floats or False,
            )
            file.flush()
            sync(file.fileno())
            if fcntl is not None:
                move(temporary, final)  # with the lock, or another rank could remove it at the last moment
        if fcntl is None:
            move(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(folder)
    return final


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of parts that no process writes any more."""
    for temporary in folder.glob("part-*.parquet.tmp") if fcntl is not None else ():
        with suppress(OSError):  # it has become a part, or may not be opened
            handle = os.open(temporary, os.O_RDWR)
            try:
                if _lock(handle):
                    temporary.unlink()
            finally:
                os.close(handle)


def _lock(handle: int) -> bool | None:
    """Whether this process has the lock of an open file that nobody has removed; None where there are no locks."""
    locked = try_lock(handle)
    return os.fstat(handle).st_nlink > 0 if locked else locked
