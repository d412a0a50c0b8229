"""ultralytics' and YOLOv5's results.csv: one row an epoch, and the parts of each loss without their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from postmortem.run.table import Bounds, Part, Table
from postmortem.run.values import Cells, Numbers
from postmortem.sources._assemble import row_source
from postmortem.sources._source import Candidate, Confidence, FormatMatch
from postmortem.sources.csv_rows import read_table as read_csv

_TRAIN, _VAL = "train/loss (sum)", "val/loss (sum)"
_RATES = frozenset(("lr/pg0", "x/lr0"))


def sniff(candidate: Candidate) -> FormatMatch | None:
    """A table of epochs with parts of a train loss, and the rate under ultralytics' name."""
    header = candidate.head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].decode(errors="replace")
    names = [name.strip() for name in header.split(",")]
    rates = _RATES & set(names)
    if rates and "epoch" in names and len(_parts(names, "train/")) > 1:
        return FormatMatch(Confidence.CERTAIN, f"its header has ultralytics' epoch, train/…_loss and {min(rates)}")
    return None


def read_table(path: Path, labels: frozenset[str]) -> Table:
    """All rows, with the sum of the parts of the train loss, which is minimized, and that of the same parts of the
    validation loss.

    Raises:
        UnreadableInput: what `csv_rows.read_table` refuses.
    """
    table = read_csv(path, labels)
    train, val = _parts(table.names, "train/"), _parts(table.names, "val/")
    table = _with_sum(table, _TRAIN, train)
    same = [name.removeprefix("train/") for name in train] == [name.removeprefix("val/") for name in val]
    return _with_sum(table, _VAL, val) if same else table


def _parts(names: Sequence[str], prefix: str) -> list[str]:
    return [name for name in names if name.startswith(prefix) and name.endswith("_loss")]


def _with_sum(table: Table, name: str, columns: Sequence[str]) -> Table:
    """The table with a column that is the sum of others, logged where all of them are; the same where one is text."""
    read = [numbers for column in columns if (numbers := table.numbers(column)) is not None]
    if not columns or len(read) < len(columns):
        return table
    total = np.sum([numbers.value for numbers in read], axis=0)
    logged = np.ones(table.rows, np.bool_)
    for numbers in read:
        logged &= True if numbers.logged is None else numbers.logged
    ends = np.cumsum([part.rows for part in table.parts]).tolist()
    parts = [
        _extended(part, name, Numbers(total[end - part.rows : end], logged[end - part.rows : end]))
        for part, end in zip(table.parts, ends, strict=True)
    ]
    note = f"{table.display_name}: {name} was added, the sum of {', '.join(columns)}"
    return replace(table, parts=tuple(parts), notes=(*table.notes, note))


def _extended(part: Part, name: str, column: Numbers) -> Part:
    def load(wanted: str) -> Cells:
        return column if wanted == name else part.load(wanted)

    def bounds(wanted: str) -> Bounds | None:
        return None if wanted == name else part.bounds(wanted)

    return Part(part.rows, (*part.names, name), load, bounds)


SOURCE = row_source(
    "ultralytics",
    "",
    sniff,
    read_table,
    columns={_TRAIN: "loss", _VAL: "eval_loss"},
    limits=("each row is the mean of an epoch: what happened within an epoch is not in it",),
)
