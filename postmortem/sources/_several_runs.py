"""A log that is not one run: a table with one row a run, or several runs below, beside or between each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from shlex import quote

import numpy as np
from numpy.typing import NDArray

from postmortem.errors import UnreadableInput, UsageError
from postmortem.run.model import Run
from postmortem.run.naming import Names, bare, is_label, name_list
from postmortem.run.table import Table
from postmortem.run.values import Mask
from postmortem.series import Steps
from postmortem.text import plain

_NAMES_OF_RUNS = frozenset((
    "run", "run_id", "run_name", "run_uuid", "name", "experiment", "experiment_id", "experiment_name", "exp",
    "exp_name", "model", "model_name", "model_id", "seed", "trial", "trial_id", "trial_name", "fold", "cv_fold", "job",
    "job_id", "variant", "method", "algorithm", "agent", "task", "split", "phase", "mode", "subset", "config_name",
))  # fmt: skip
_OF_A_TABLE = (frozenset(("state", "status")), frozenset(("created", "created_at", "start_time")))
"""Columns of which a table of runs has one of each, and the steps of a run have none."""

_OWN_ROW = 0.9
"""Share of the rows of a table that differ in the columns that name runs, at least: a run may have been repeated."""

_MOST_RUNS = 1_000
_HEAD = 10
"""A run begins where another does if that is in the first tenth of the other: a resume begins further on."""


class SeveralRuns(UnreadableInput):
    """A log contains several runs. `runs` maps their names → what reads each of them; any source may raise it."""

    def __init__(self, what: str, runs: Mapping[str, Callable[[], Run]], *, file: str) -> None:
        example = quote(plain(next(iter(runs)), 60))
        super().__init__(f"{what}: {name_list(runs)}.", file=file, hint=f"Say which one is meant: --run {example}")
        self.runs = runs

    def read(self, name: str) -> Run:
        """The run of this name.

        Raises:
            UsageError: there is none.
            UnreadableInput: it cannot be read.
        """
        reader = self.runs.get(name) or next((self.runs[n] for n in self.runs if plain(n) == plain(name)), None)
        if reader is None:
            raise UsageError(
                f"--run {plain(name, 60)}: {self.file} has no run of this name. It has: {name_list(self.runs)}"
            )
        return reader()

    def wrap(self, reading: Callable[[Callable[[], Run]], Run]) -> None:
        """Let `reading` call what reads each run, as it did what read the log."""
        self.runs = {name: partial(reading, reader) for name, reader in self.runs.items()}


class TableOfRuns(Exception):
    """A table contains several runs: `what` says how, and `tables` maps their names → what makes the table of each."""

    def __init__(self, what: str, tables: Mapping[str, Callable[[], Table]]) -> None:
        super().__init__(what)
        self.what, self.tables = what, tables


def check_one_run(
    table: Table, names: Names, step: Steps, rows: Steps | None, trained: Mask, *, labels: bool = True
) -> None:
    """Refuse one row a run, and tell apart the rows of several runs where a column does.

    `step` int64[n] are the steps of the `rows`, and `trained` bool[n] those that log the loss. A column that changes
    within a run, as at a resume, tells nothing apart: each run has steps of its own from the beginning on. Without
    `labels`, only columns that name runs count: where rows of one run share a step, any label of batches would do.

    Raises:
        UnreadableInput: a table of runs.
        TableOfRuns: rows of several runs.
    """
    ordered = bool((step[trained][1:] > step[trained][:-1]).all())
    naming = [name for name in names.unknown if bare(name) in _NAMES_OF_RUNS]
    columns = {name: _texts(table, name, rows) for name in naming}
    several = {name: column for name, column in columns.items() if len(column[0]) > 1}
    if several and _is_table(table, [group for _, group in several.values()], ordered=ordered):
        name, (texts, _) = max(several.items(), key=lambda item: len(item[1][0]))
        raise UnreadableInput(
            f"a table of {step.size} runs, one row each, not the steps of one "
            f"(column {plain(name, 60)}: {name_list(texts, 3)}).",
            file=table.display_name,
            hint="Export the history of one run: one row a step.",
        )
    if ordered:
        return
    others = [n for n in names.unknown if labels and n not in columns and not is_label(n) and table.numbers(n) is None]
    for name, (texts, group) in {**several, **{name: _texts(table, name, rows) for name in others}}.items():
        if 1 < len(texts) <= _MOST_RUNS and _each_begins(step[trained], group[trained], len(texts)):
            positions = np.arange(table.rows) if rows is None else rows
            tables = {text: partial(table.at, positions[group == number]) for number, text in enumerate(texts)}
            raise TableOfRuns(f"{len(texts)} runs in one log, by column {plain(name, 60)}", tables)


def _texts(table: Table, name: str, rows: Steps | None) -> tuple[list[str], NDArray[np.int64]]:
    """(the different values of a column as people write them, which of them each row has: int64[n], -1 for none)."""
    values = table.objects(name)
    number: dict[str, int] = {}
    group = [
        -1
        if v is None
        else number.setdefault(str(int(v) if isinstance(v, float) and v.is_integer() else v), len(number))
        for v in (values if rows is None else values[rows])
    ]
    return list(number), np.array(group, np.int64)


def _is_table(table: Table, groups: list[NDArray[np.int64]], *, ordered: bool) -> bool:
    """Whether each row is a run: by columns that only such tables have, or because nearly no two rows are of one run,
    by all columns that name runs, and the steps do not rise from row to row."""
    words = {bare(name) for name in table.names}
    if all(not words.isdisjoint(marks) for marks in _OF_A_TABLE):
        return True
    return not ordered and len(np.unique(np.stack(groups), axis=1).T) >= max(_OWN_ROW * groups[0].size, 2)


def _each_begins(step: Steps, group: NDArray[np.int64], groups: int) -> bool:
    """Whether two groups of rows have the same steps, or one after the other begins where the other did."""
    rows_of = [np.flatnonzero(group == g) for g in range(groups)]
    rows_of = sorted((rows for rows in rows_of if rows.size > 1), key=lambda rows: (int(step[rows].min()), rows[0]))
    for before, rows in pairwise(rows_of):
        first, last = int(step[before].min()), int(step[before].max())
        if step[rows].min() - first > (last - first) / _HEAD:
            continue
        shared = np.intersect1d(step[before], step[rows]).size
        if 2 * shared >= min(before.size, rows.size) or before[-1] < rows[0] or rows[-1] < before[0]:
            return True
    return False
