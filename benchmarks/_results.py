"""What the resumable fault benches share: their options, their rows kept as a small Parquet file, and the work pool."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from _measure import ROOT, options, say
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from postmortem.atomic import write_bytes

RESULTS = ROOT / "benchmarks" / "results"
RUNS = RESULTS / "runs"
_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


class FaultRow(Protocol):
    """A dataclass of one training: its fault and seed, and the hash of the code that made the row."""

    __dataclass_fields__: Any
    fault: str
    seed: int
    code: str


R = TypeVar("R", bound=FaultRow)
T = TypeVar("T")
Key = tuple[str, int]  # (fault, seed)


class Results(Generic[R]):
    """benchmarks/results/<name>.parquet: one line per `row`, a dataclass of str, int, float, bool, each or None."""

    def __init__(self, name: str, row: type[R]) -> None:
        self.path = RESULTS / f"{name}.parquet"
        self._row = row
        self._schema = pa.schema([(field.name, _TYPES[str(field.type).partition(" ")[0]]) for field in fields(row)])

    def load(self, code: str) -> dict[Key, R]:
        """The rows that `code` has made so far; empty if the file has other columns."""
        if not self.path.exists():
            return {}
        table = pq.read_table(self.path)
        if table.schema.names != self._schema.names:
            return {}
        rows = [self._row(**row) for row in table.to_pylist()]
        return {(row.fault, row.seed): row for row in rows if row.code == code}

    def save(self, rows: Sequence[R]) -> None:
        """Write all rows and replace the file atomically, in an order that keeps the diff of two benches small."""
        self.path.parent.mkdir(exist_ok=True)
        ordered = sorted(rows, key=lambda row: (row.fault, row.seed))
        buffer = pa.BufferOutputStream()
        table = pa.Table.from_pylist([asdict(row) for row in ordered], schema=self._schema)
        pq.write_table(table, buffer, compression="zstd")
        write_bytes(self.path, buffer.getvalue().to_pybytes())

    def complete(
        self,
        keys: Sequence[Key],
        make: Callable[[str, int, str], R],
        code: str,
        *,
        jobs: int,
        title: str,
        pool: Callable[[int], Executor] = ThreadPoolExecutor,
    ) -> dict[Key, R]:
        """All rows of `code`: the kept rows, and the missing ones of `keys`, made by `make(fault, seed, code)`. New
        rows are saved at once, or within a second of the last save, so that the bench can be interrupted and resumed.
        """
        rows = self.load(code)
        missing = [key for key in keys if key not in rows]
        say(f"{len(rows)} rows kept for this code ({code}), {len(missing)} to make")

        saved_at = 0.0

        def keep(key: Key, row: R) -> None:
            nonlocal saved_at
            rows[key] = row
            if time.monotonic() - saved_at >= 1.0:
                self.save(list(rows.values()))
                saved_at = time.monotonic()

        try:
            work(partial(_make, make, code), missing, keep, jobs=jobs, title=title, pool=pool)
        finally:
            if missing:
                self.save(list(rows.values()))
        return rows


def _make(make: Callable[[str, int, str], R], code: str, key: Key) -> R:
    return make(*key, code)


def work(
    function: Callable[[Key], T],
    keys: Sequence[Key],
    then: Callable[[Key, T], object],
    *,
    jobs: int,
    title: str,
    pool: Callable[[int], Executor] = ThreadPoolExecutor,
) -> None:
    """Call `function` for each key in `jobs` workers of `pool`, and `then` with each key and result, here, as they end.
    Shows a progress bar on a terminal. After an error no further key is started.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        pool(jobs) as workers,
        Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress,
    ):
        task = progress.add_task(title, total=len(keys))
        pending = {workers.submit(function, key): key for key in keys}
        try:
            for future in as_completed(pending):
                then(pending[future], future.result())
                progress.advance(task)
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise


def fault_options(description: str, faults: Sequence[str], *, seeds: int, first_seed: int) -> argparse.ArgumentParser:
    """The options of a fault bench: which seeds and faults, how many jobs, `--write`."""
    parser = options(description)
    parser.add_argument("--seeds", type=int, default=seeds, help=f"seeds per fault (default {seeds})")
    parser.add_argument("--first-seed", type=int, default=first_seed, help=f"the first seed (default {first_seed})")
    parser.add_argument("--fault", action="append", choices=faults, help="only this fault (repeatable)")
    parser.add_argument("--jobs", type=int, default=2, help="runs in parallel (default 2)")
    return parser


def keys_of(arguments: argparse.Namespace, faults: Sequence[str]) -> list[Key]:
    """The (fault, seed) that the options ask for, all faults of one seed before those of the next."""
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    return [(fault, seed) for seed in seeds for fault in arguments.fault or faults]


def code_hash(parts: Sequence[str]) -> str:
    """First 12 hex digits of a SHA-256 over the source in `parts` of the package."""
    digest = hashlib.sha256()
    for name in parts:
        path = ROOT / "postmortem" / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def ensure_trained(run: Path, mark: Path, train: Callable[[], str]) -> str:
    """The text of the file `mark`, which is what `train` returned; `run` is trained only if `mark` does not exist."""
    if not mark.exists():
        shutil.rmtree(run, ignore_errors=True)
        run.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(train())
    return mark.read_text()
