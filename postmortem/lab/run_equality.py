"""Compares two recorded runs bit for bit, except clocks and environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from postmortem.jsonio import read_object
from postmortem.run.columns import CLOCKS


def differences(a: Path, b: Path) -> list[str]:
    """What differs between two run directories, one line each; empty if they are equal.

    It compares every column of metrics and batches except the clocks, the journal without its times, the manifest
    without its environment, the vocabulary, and each tensor and number of each checkpoint.
    """
    lines: list[str] = []
    for folder in ("metrics", "batches"):
        lines += _tables(folder, _table(a / folder), _table(b / folder))
    if _journal(a) != _journal(b):
        lines.append("journal.jsonl: the events differ")
    if _manifest(a) != _manifest(b):
        lines.append("run.json: a key other than the environment differs")
    if (a / "vocab.json").read_bytes() != (b / "vocab.json").read_bytes():
        lines.append("vocab.json differs")
    names = [sorted(path.name for path in (run / "rollback").glob("step-*")) for run in (a, b)]
    if names[0] != names[1]:
        lines.append(f"rollback: {names[0]} against {names[1]}")
    for name in sorted(set(names[0]) & set(names[1])):
        lines += [f"rollback/{name}: {key}" for key in _checkpoint(a / "rollback" / name, b / "rollback" / name)]
    return lines


def _table(folder: Path) -> pa.Table:
    parts = [pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))]
    return pa.concat_tables(parts, promote_options="permissive").sort_by(
        [("attempt", "ascending"), ("step", "ascending")]
    )


def _tables(folder: str, a: pa.Table, b: pa.Table) -> list[str]:
    names = [set(table.column_names) - CLOCKS for table in (a, b)]
    lines = [f"{folder}: only one run has {', '.join(sorted(names[0] ^ names[1]))}"] if names[0] != names[1] else []
    if a.num_rows != b.num_rows:
        return [*lines, f"{folder}: {a.num_rows} rows against {b.num_rows}"]
    for name in sorted(names[0] & names[1]):
        step = _first_difference(a.column(name), b.column(name))
        if step is not None:
            lines.append(f"{folder}: column {name} differs, first at step {a.column('step')[step]}")
    return lines


def _first_difference(a: pa.ChunkedArray, b: pa.ChunkedArray) -> int | None:
    """The number of the first row that differs; NaN equals NaN."""
    if a.type != b.type:
        return 0
    if not pa.types.is_floating(a.type):
        left, right = a.to_pylist(), b.to_pylist()
        return next((row for row, (x, y) in enumerate(zip(left, right, strict=True)) if repr(x) != repr(y)), None)
    same = np.equal(a.is_null().to_numpy(), b.is_null().to_numpy())
    left, right = (column.to_numpy(zero_copy_only=False).astype(np.float64) for column in (a, b))
    same &= (left == right) | (np.isnan(left) & np.isnan(right))
    return None if same.all() else int(np.argmin(same))


def _journal(run: Path) -> list[list[tuple[str, Any]]]:
    """The events without clocks and file sizes, sorted: events of the recorder's thread have no fixed order."""
    lines = (run / "journal.jsonl").read_text("utf-8").splitlines()
    left_out = CLOCKS | {"seconds", "bytes"}
    events = [sorted((k, v) for k, v in json.loads(line).items() if k not in left_out) for line in lines]
    return sorted(events, key=repr)


def _manifest(run: Path) -> dict[str, Any]:
    return {key: value for key, value in read_object(run / "run.json").items() if key != "environment"}


def _checkpoint(a: Path, b: Path) -> list[str]:
    from postmortem.checkpoint.load import load_checkpoint
    from postmortem.program_state import differing_pieces, state_pieces

    return [
        piece.path for piece in differing_pieces(state_pieces(load_checkpoint(a)), state_pieces(load_checkpoint(b)))
    ]
