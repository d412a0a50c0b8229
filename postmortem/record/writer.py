"""Writes a run directory row by row, so that a `kill -9` at any instant loses nothing that was written.

A row is one line; lines are appended to a live tail by a single `os.write` (O_APPEND), and a write that the system cut
short is undone. A tail that has grown large is compacted into a Parquet part by temporary file, fsync and rename, and
then removed. A crash between the rename and the removal leaves rows twice; readers keep one row per (attempt, step,
rank). All ranks share the journal, so each append takes a lock.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, Self, cast

from postmortem.atomic import append_to, is_same_file, sync, write_text
from postmortem.jsonio import strict_json
from postmortem.run.arrow import merge_tables
from postmortem.run.manifest import FORMAT_VERSION, read_mapping
from postmortem.run.parts import arrow_table, tail_key, tails, write_part
from postmortem.run.rows import LineReport, read_jsonl, read_objects
from postmortem.run.values import parse_number

try:
    import fcntl
except ImportError:  # not a POSIX system: one rank at a time
    fcntl = None

Table = Literal["metrics", "batches", "journal"]
_TAIL_LIMIT = 16 * 2**20
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class RunWriter:
    """Appends to one run directory as one (attempt, rank). A context manager; reopening a directory appends to it.

    Usage:
        with RunWriter(Path("runs/demo"), {"seed": 1}) as run:
            run.event("run_start", 0)
            run.log(0, {"loss": 2.3, "lr": 3e-4})
    """

    def __init__(
        self,
        path: Path,
        manifest: Mapping[str, Any] | None = None,
        *,
        attempt: int = 0,
        rank: int = 0,
        tail_limit: int = _TAIL_LIMIT,
    ) -> None:
        """Create `path` if it does not exist; with `manifest`, write run.json (other keys that are there stay).

        `attempt` counts starts and resumes from 0. A tail that exceeds `tail_limit` bytes is compacted.
        """
        self.path, self.attempt, self.rank = path, attempt, rank
        path.mkdir(parents=True, exist_ok=True)
        if manifest is not None:
            update_manifest(path, lambda before: {**before, **manifest})
        tail = f"tail-{attempt}-{rank}.jsonl"
        self._metrics = _AppendOnlyFile(path / "metrics" / tail, tail_limit)
        self._batches = _AppendOnlyFile(path / "batches" / tail, tail_limit)
        self._journal = _AppendOnlyFile(path / "journal.jsonl", None, shared=True)

    def log(self, step: int, row: Mapping[str, float | int | str | None]) -> None:
        """One metrics row: canonical column → value; None or absent means not logged, NaN means non-finite."""
        self._append(self._metrics, {"attempt": self.attempt, "step": int(step), "rank": self.rank, **row})

    def batch(self, step: int, row: Mapping[str, Any]) -> None:
        """One row about the batch of `step`: hashes, ids, counts, lists."""
        self._append(self._batches, {"attempt": self.attempt, "step": int(step), "rank": self.rank, **row})

    def event(self, event: str, step: int | None = None, **keys: Any) -> None:
        """One line of the journal; `time` (unix seconds) is added unless it is given."""
        self._append(self._journal, event_row(event, step, keys))

    def _append(self, file: _AppendOnlyFile, row: Mapping[str, object]) -> None:
        file.write(encode(row))
        if file.outgrown:
            file.compact()

    def write(self, table: Table, lines: Sequence[bytes]) -> None:
        """Append lines that `encode` made, in one write.

        Raises:
            OSError: none of them was written.
        """
        self._file_of(table).write(b"".join(lines))

    def sync(self) -> None:
        """fsync what was written, in case the machine goes down, too."""
        for table in ("metrics", "batches", "journal"):
            self._file_of(table).sync()

    @property
    def outgrown(self) -> bool:
        """Whether a tail has grown so large that it should be compacted."""
        return self._metrics.outgrown or self._batches.outgrown

    def compact(self) -> None:
        """Turn this rank's tails into Parquet parts, also those of earlier attempts."""
        self._metrics.compact()
        self._batches.compact()

    def close(self) -> None:
        """Compact, and close the files."""
        try:
            self.compact()
        finally:
            for file in (self._metrics, self._batches, self._journal):
                file.close()

    def _file_of(self, table: Table) -> _AppendOnlyFile:
        return {"metrics": self._metrics, "batches": self._batches, "journal": self._journal}[table]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _AppendOnlyFile:
    """One append-only JSONL file: with a size limit, a tail that is compacted; if `shared`, locked at each write."""

    def __init__(self, path: Path, limit: int | None, *, shared: bool = False) -> None:
        self._path, self._limit, self._shared = path, limit, shared
        self._handle: int | None = None
        self._size = 0

    @property
    def outgrown(self) -> bool:
        return self._limit is not None and self._size > self._limit

    def write(self, data: bytes) -> None:
        handle = self._open() if self._handle is None else self._handle
        with _locked(handle) if self._shared else nullcontext():
            before = os.fstat(handle).st_size
            if (self._shared or not self._size) and before and os.pread(handle, 1, before - 1) != b"\n":
                data = b"\n" + data  # a torn line of a killed writer must not swallow the next row
            try:
                append_to(handle, data, before)
            except OSError:
                self._size = 0  # then the next write checks how the file ends
                raise
        self._size = before + len(data)

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._size = 0
        return self._handle

    def sync(self) -> None:
        if self._handle is not None:
            sync(self._handle)

    def compact(self) -> None:
        self.close()
        folder = self._path.parent
        if not folder.is_dir():
            return
        attempt, rank = tail_key(self._path)
        for tail in tails(folder):
            key = tail_key(tail)
            if key[1] == rank and key[0] <= attempt:
                chunks, _ = read_jsonl(tail, tail.name, strict_text=False, labels=_text_columns(tail))
                if chunks:
                    write_part(folder, merge_tables([arrow_table(chunk) for chunk in chunks]))
                tail.unlink()
        self._size = 0

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _text_columns(tail: Path) -> frozenset[str]:
    """Columns in which any cell is a word: they stay as they were logged, even if most cells are numbers."""
    columns: set[str] = set()
    for _, row in read_objects(tail, LineReport(tail.name), strict_text=False):
        for name, value in row.items():
            if isinstance(value, str) and name not in columns and not _reads_as_number(value):
                columns.add(name)
    return frozenset(columns)


def _reads_as_number(text: str) -> bool:
    try:
        parse_number(text)
    except ValueError:
        return False
    return True


def event_row(event: str, step: int | None, keys: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the journal: `time` (unix seconds) is added unless it is among `keys`."""
    return {"event": event, "step": step, "time": time.time(), **keys}


def encode(row: Mapping[str, object]) -> bytes:
    """`row` as one line of JSON, non-finite numbers by name."""
    try:
        text = _encode(row)
    except (TypeError, ValueError):
        text = _encode(json_value(row))
    return text.encode("utf-8", "replace") + b"\n"


def json_value(value: object) -> object:
    """`value` as strict JSON: non-finite floats by name, arrays as lists, numpy and torch scalars as numbers."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): json_value(inner) for key, inner in cast(Mapping[object, object], value).items()}
    if isinstance(value, (list, tuple)):
        return [json_value(inner) for inner in cast(list[object], value)]
    to_list: Callable[[], object] | None = getattr(value, "tolist", None)
    return str(value) if to_list is None else json_value(to_list())


def update_manifest(path: Path, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
    """Replace the keys of run.json by `change(keys)`, while no other rank does so; return the keys before.

    Raises:
        UnreadableInput: run.json holds no object. It stays as it is.
        OSError: it cannot be written.
    """
    file = path / "run.json"
    with locked(path / ".run.lock"):
        before: dict[str, Any] = read_mapping(file) if file.exists() else {}
        keys = {"format_version": FORMAT_VERSION, "id": path.name, **change(before)}
        if keys != before:
            write_text(file, strict_json(json_value(keys), ensure_ascii=False, indent=2))
    return before


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Keep other processes out by a lock on the file `path`, which is removed afterwards."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with _locked(handle):
                if is_same_file(handle, path):  # else the process before us removed it while we waited
                    try:
                        yield
                    finally:
                        path.unlink(missing_ok=True)
                    return
        finally:
            os.close(handle)


@contextmanager
def _locked(handle: int) -> Generator[None]:
    if fcntl is None:
        yield
        return
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)
