"""Compares the common columns of two runs, bit for bit."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from postmortem.diff.model import ColumnDiff
from postmortem.diff.pair import Pair, Rows, in_both, same_bits
from postmortem.run import LabelSeries, Run
from postmortem.run.columns import is_clock
from postmortem.series import Series, Steps

_HASHED: dict[str, Literal["batch", "state", "state_local"]] = {
    "batch_hash": "batch",
    "param_hash": "state",
    "param_hash_part": "state_local",
}


def compare_columns(pair: Pair) -> tuple[ColumnDiff, ...]:
    """Every common column except the clocks, over the steps of which both runs have a row."""
    return tuple(diff for name in common_columns(*pair.runs) if (diff := _column(pair, name)) is not None)


def common_columns(a: Run, b: Run) -> list[str]:
    """The columns that both runs have, except the clocks."""
    names = {*b.columns, *b.other_columns}
    return [name for name in (*a.columns, *a.other_columns) if name in names and not is_clock(name)]


def columns_only_in(run: Run, sibling: Run) -> tuple[str, ...]:
    """Columns that `run` has and `sibling` has not, clocks included."""
    excluded = {*sibling.columns, *sibling.other_columns}
    return tuple(name for name in (*run.columns, *run.other_columns) if name not in excluded)


def _column(pair: Pair, name: str) -> ColumnDiff | None:
    if name in _HASHED and not pair.comparable(_HASHED[name]):
        return None
    a, b = (read_column(run, name) for run in pair.runs)
    if a is None or b is None:
        return None
    rows_a, rows_b = in_both(a.step, b.step)
    step = a.step[rows_a]
    differs = np.flatnonzero(~equal_rows(a, b, rows_a, rows_b))
    only_a, only_b = (_common(column.step, pair.steps) - step.size for column in (a, b))
    if not differs.size:
        return ColumnDiff(name, step.size, 0, None, None, 0, only_a, only_b)
    first, last = int(differs[0]), int(differs[-1])
    after = step.size - 1 - last
    return ColumnDiff(name, step.size, differs.size, int(step[first]), int(step[last]), after, only_a, only_b)


def read_column(run: Run, name: str) -> Series | LabelSeries | None:
    """The column as numbers or, where it has none, as text; None where it was never logged."""
    return run.series(name) or run.labels(name)


def equal_rows(a: Series | LabelSeries, b: Series | LabelSeries, rows_a: Rows, rows_b: Rows) -> NDArray[np.bool_]:
    """bool[n]: whether the given n rows of two columns have the same bits."""
    if isinstance(a, Series) and isinstance(b, Series):
        return same_bits(a.value[rows_a], b.value[rows_b])
    left, right = a.value[rows_a].astype(object), b.value[rows_b].astype(object)
    equal = np.asarray(left == right, bool)
    # A NaN in a list is equal to nothing, not even to the same NaN in the other log.
    lists = [i for i in np.flatnonzero(~equal) if isinstance(left[i], list)]
    equal[lists] = [repr(left[i]) == repr(right[i]) for i in lists]
    return equal


def _common(step: Steps, common: Steps) -> int:
    """How many of `step` are common steps."""
    if step.size == common.size and np.array_equal(step, common):
        return step.size
    rows, _ = in_both(step, common)
    return step.size if isinstance(rows, slice) else rows.size
