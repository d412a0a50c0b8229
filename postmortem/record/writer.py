"""Writing a run directory, row by row, such that a `kill -9` at any instant loses nothing that was written.

A row is one line, appended to a live tail by a single `os.write` (O_APPEND). Once a tail has grown, it is compacted
into a Parquet part by temporary file, fsync and rename, and then removed. A crash between the rename and the removal
leaves rows twice; readers keep one row per (attempt, step, rank).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from postmortem.atomic import write_text
from postmortem.run.arrow import merged
from postmortem.run.manifest import FORMAT_VERSION, read_mapping
from postmortem.run.parts import arrow_table, tail_key, tails, write_part
from postmortem.run.rows import read_jsonl

_TAIL_LIMIT = 16 * 2**20


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
        """Create `path` where it is absent; with `manifest`, write run.json (keys already there and not given stay).

        `attempt` counts starts and resumes from 0. A tail is compacted on its own once it exceeds `tail_limit` bytes.
        """
        self.path, self.attempt, self.rank = path, attempt, rank
        path.mkdir(parents=True, exist_ok=True)
        if manifest is not None:
            _write_manifest(path, manifest)
        tail = f"tail-{attempt}-{rank}.jsonl"
        self._metrics = _Log(path / "metrics" / tail, tail_limit)
        self._batches = _Log(path / "batches" / tail, tail_limit)
        self._journal = _Log(path / "journal.jsonl", None)

    def log(self, step: int, row: Mapping[str, float | int | str | None]) -> None:
        """One metrics row: canonical column → value; None or absent means not logged, NaN means non-finite."""
        self._metrics.append({"attempt": self.attempt, "step": int(step), "rank": self.rank, **row})

    def batch(self, step: int, row: Mapping[str, Any]) -> None:
        """One row about the batch of `step`: hashes, ids, counts, lists."""
        self._batches.append({"attempt": self.attempt, "step": int(step), "rank": self.rank, **row})

    def event(self, event: str, step: int | None = None, **keys: Any) -> None:
        """One line of the journal; `time` (unix seconds) is added unless it is given."""
        stamp = {"time": keys["time"] if "time" in keys else time.time()}
        self._journal.append({"event": event, "step": step, **stamp, **keys})

    def compact(self) -> None:
        """Turn this rank's tails, those of earlier attempts included, into Parquet parts."""
        self._metrics.compact()
        self._batches.compact()

    def close(self) -> None:
        """Compact, and close the files."""
        self.compact()
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Log:
    """One append-only JSONL file; with a size limit, a tail that compacts itself."""

    def __init__(self, path: Path, limit: int | None) -> None:
        self._path, self._limit = path, limit
        self._handle: int | None = None
        self._size = 0

    def append(self, row: Mapping[str, object]) -> None:
        data = json.dumps(plain_value(row), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        handle = self._open() if self._handle is None else self._handle
        written = os.write(handle, data)
        if written != len(data):
            raise OSError(f"{self._path}: only {written} of {len(data)} bytes of a row were written")
        self._size += written
        if self._limit is not None and self._size > self._limit:
            self.compact()

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._size = os.fstat(handle).st_size
        if self._size and os.pread(handle, 1, self._size - 1) != b"\n":
            os.write(handle, b"\n")  # a torn line of a killed writer must not swallow the next row
        self._handle = handle
        return handle

    def compact(self) -> None:
        self.close()
        folder = self._path.parent
        if not folder.is_dir():
            return
        attempt, rank = tail_key(self._path)
        for tail in tails(folder):
            key = tail_key(tail)
            if key[1] == rank and key[0] <= attempt:
                chunks, _ = read_jsonl(tail, tail.name, strict_text=False)
                if chunks:
                    write_part(folder, merged([arrow_table(chunk) for chunk in chunks]))
                tail.unlink()

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def plain_value(value: object) -> object:
    """`value` as JSON can hold it: non-finite floats by name, arrays as lists, numpy and torch scalars as numbers."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): plain_value(inner) for key, inner in cast(Mapping[object, object], value).items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(inner) for inner in cast(list[object], value)]
    listed: Callable[[], object] | None = getattr(value, "tolist", None)
    return str(value) if listed is None else plain_value(listed())


def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    file = path / "run.json"
    before: dict[str, object] = read_mapping(file) if file.exists() else {}
    merged_keys = {"format_version": FORMAT_VERSION, "id": path.name, **before, **manifest}
    write_text(file, json.dumps(plain_value(merged_keys), indent=2, ensure_ascii=False) + "\n")
