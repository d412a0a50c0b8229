"""The columns that two runs have in common, bit for bit."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from postmortem.diff.model import ColumnDiff
from postmortem.diff.pair import At, Pair, in_both, same_bits
from postmortem.run import LabelSeries, Run
from postmortem.run.columns import is_clock
from postmortem.series import Series, Steps

_HASHED: dict[str, Literal["batch", "state", "state_local"]] = {
    "batch_hash": "batch",
    "param_hash": "state",
    "param_hash_part": "state_local",
}


def compare(pair: Pair) -> tuple[ColumnDiff, ...]:
    """Every common column but the clocks, over the steps of which both runs have a row."""
    a, b = pair.runs
    names = [n for n in (*a.columns, *a.other_columns) if n in {*b.columns, *b.other_columns}]
    return tuple(diff for name in names if not is_clock(name) and (diff := _column(pair, name)) is not None)


def alone(run: Run, other: Run) -> tuple[str, ...]:
    """Columns, clocks among them, that only `run` has."""
    theirs = {*other.columns, *other.other_columns}
    return tuple(name for name in (*run.columns, *run.other_columns) if name not in theirs)


def _column(pair: Pair, name: str) -> ColumnDiff | None:
    if name in _HASHED and not pair.comparable(_HASHED[name]):
        return None
    a, b = (_read(run, name) for run in pair.runs)
    if a is None or b is None:
        return None
    at, bt = in_both(a.step, b.step)
    step = a.step[at]
    same = _same(a, b, at, bt)
    differs = np.flatnonzero(~same)
    inside_a, inside_b = (_inside(one.step, pair.steps) - step.size for one in (a, b))
    if not differs.size:
        return ColumnDiff(name, step.size, 0, None, None, 0, inside_a, inside_b)
    first, last = int(differs[0]), int(differs[-1])
    after = step.size - 1 - last
    return ColumnDiff(name, step.size, differs.size, int(step[first]), int(step[last]), after, inside_a, inside_b)


def _read(run: Run, name: str) -> Series | LabelSeries | None:
    return run.series(name) or run.labels(name)


def _same(a: Series | LabelSeries, b: Series | LabelSeries, at: At, bt: At) -> NDArray[np.bool_]:
    if isinstance(a, Series) and isinstance(b, Series):
        return same_bits(a.value[at], b.value[bt])
    left, right = a.value[at].astype(object), b.value[bt].astype(object)
    same = np.asarray(left == right, bool)
    # A NaN in a list equals nothing, not even itself as another run wrote it.
    lists = [i for i in np.flatnonzero(~same) if isinstance(left[i], list)]
    same[lists] = [repr(left[i]) == repr(right[i]) for i in lists]
    return same


def _inside(step: Steps, common: Steps) -> int:
    """How many of `step` are common steps."""
    if step.size == common.size and np.array_equal(step, common):
        return step.size
    at, _ = in_both(step, common)
    return step.size if isinstance(at, slice) else at.size
