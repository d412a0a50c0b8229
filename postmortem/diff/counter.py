"""Recognizes a log that was written with another counter: the same rows, at other steps.

A step that begins at 1, counts micro-steps or tokens, or every tenth iteration as one, says nothing about the training.
Where the rows of two runs are equal one by one, in every common column except the clocks, one run is read with the
steps of the other.
"""

from __future__ import annotations

import numpy as np

from postmortem.diff.columns import common_columns, equal_rows, read_column
from postmortem.run import Run
from postmortem.series import Steps


def with_one_counter(a: Run, b: Run) -> tuple[Run, Run, str]:
    """(a, b, how their counters differ): one of them with the steps of the other where they have the same rows, and a
    sentence that says so; else both as they are, and "".

    Only a run of rows alone is read with other steps: events and checkpoints have the steps of their own run. The loss
    must tell the rows apart, because a constant column is equal in many runs.
    """
    if a.row_steps.size != b.row_steps.size or np.array_equal(a.row_steps, b.row_steps):
        return a, b, ""
    if not (a.rows_alone or b.rows_alone) or not _same_rows(a, b):
        return a, b, ""
    moved, kept = ("b", "a") if b.rows_alone else ("a", "b")
    equation = _equation(a.row_steps, b.row_steps)
    text = f"{moved} has the same rows under another counter{equation}; it is read with the steps of {kept}"
    return (a, b.with_steps(a.row_steps), text) if moved == "b" else (a.with_steps(b.row_steps), b, text)


def _same_rows(a: Run, b: Run) -> bool:
    """Whether row k of a and row k of b logged the same columns with the same bits, for each k."""
    loss = a.series("loss")
    if loss is None or b.series("loss") is None or np.unique(loss.value).size < 2:
        return False
    return all(_same_column(a, b, name) for name in common_columns(a, b))


def _same_column(a: Run, b: Run, name: str) -> bool:
    column_a, column_b = read_column(a, name), read_column(b, name)
    if column_a is None or column_b is None:
        return column_a is column_b
    rows_a, rows_b = (_rows(run, column.step) for run, column in ((a, column_a), (b, column_b)))
    everything = slice(None)
    return np.array_equal(rows_a, rows_b) and bool(equal_rows(column_a, column_b, everything, everything).all())


def _rows(run: Run, steps: Steps) -> Steps:
    """The rows of `steps`, int64[n]; −1 where there is none: a batch may be logged without a row of metrics."""
    rows = np.minimum(np.searchsorted(run.row_steps, steps), run.row_steps.size - 1)
    return np.where(run.row_steps[rows] == steps, rows, -1)


def _equation(a: Steps, b: Steps) -> str:
    """` (step in b = 10 × step in a + 1)`; "" where neither counter is a multiple of the other."""
    for name, steps, of, others in (("b", b, "a", a), ("a", a, "b", b)):
        distances, unit = np.diff(steps), np.diff(others)
        factor = int(distances[0] // unit[0])
        if np.array_equal(distances, factor * unit):
            offset = int(steps[0]) - factor * int(others[0])
            sign = "" if not offset else f" {'+' if offset > 0 else '−'} {abs(offset)}"
            return f" (step in {name} = {'' if factor == 1 else f'{factor} × '}step in {of}{sign})"
    return ""
