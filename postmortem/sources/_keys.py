"""Row keys of a table: the step column, the rows that have a step, and their attempt and rank."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from postmortem.errors import UnreadableInput
from postmortem.run.columns import KEYS
from postmortem.run.history import RowKeys
from postmortem.run.naming import Names, is_label
from postmortem.run.rewinds import attempts_of
from postmortem.run.table import Table
from postmortem.run.values import Mask, Numbers
from postmortem.series import Steps, Values
from postmortem.sources._several_runs import check_one_run
from postmortem.sources._source import DerivedSteps
from postmortem.sources._steps import StepColumn, step_column, through_epochs, through_rounds
from postmortem.text import count, plain

_EXACT = 2**53
"""Steps from which on floats, in which columns are read, leave numbers out: rows of different steps share one."""

_FEW_ROWS, _FEW_SHARE = 2, 0.1
"""Rows that may repeat a step with other values, as after a crash; more are rows of several runs."""


def read_keys(
    table: Table,
    names: Names,
    targets: Collection[int],
    derived: DerivedSteps | None = None,
    *,
    declared: bool = False,
) -> tuple[Names, RowKeys, list[str]]:
    """(the names with the column that counts steps, keys of the rows that have a step, notes).

    `targets` are steps to which the run went back by its journal, `derived` are steps by the rule of the log's format,
    and `declared` says that --map or run.json name the step column.

    Raises:
        UnreadableInput: no step column, no row with a usable step, or rows of runs that no column tells apart.
        TableOfRuns: rows of several runs.
    """
    names, column = step_column(table, names, derived, declared=declared)
    step, rows, notes = _usable(table, column)
    rank = _whole_numbers(table, names, "rank", rows)
    attempt = _whole_numbers(table, names, "attempt", rows)
    attempts_logged = "attempt" in names.logged_as
    if bool((step[1:] > step[:-1]).all()):
        if not attempts_logged:
            check_one_run(table, names, step, rows, np.ones(step.size, np.bool_))
        return names, RowKeys(step, attempt, rank, rows), notes
    anchor, logged = _anchor(table, names, rows, step.size)
    counted = _through_all(table, names, step, rows, anchor, logged, alone=not attempts_logged and not targets)
    if counted is not None:
        step, how = counted
        notes.append(f"{table.display_name}: its steps are {how}")
    if attempts_logged:
        return names, RowKeys(step, attempt, rank, rows), notes
    check_one_run(table, names, step, rows, logged if rank is None else logged & (rank == rank.min()))
    attempts = np.zeros(step.size, np.int64)
    ranks = np.zeros(step.size, np.int64) if rank is None else rank
    positions = np.arange(step.size) if rows is None else rows
    for r in np.unique(ranks):
        of_rank = np.flatnonzero(ranks == r)
        joins = np.searchsorted(positions[of_rank], np.array(table.joins, np.int64)).tolist()
        attempts[of_rank], rank_notes = attempts_of(
            step[of_rank], anchor[of_rank], logged[of_rank], targets, table.display_name, joins
        )
        notes += [note for note in rank_notes if note not in notes]
    repeated, other = _repeated(anchor[logged], attempts[logged], step[logged], ranks[logged])
    exact = not step.size or step.max() < _EXACT
    if exact and other > max(_FEW_ROWS, logged.sum() * _FEW_SHARE):
        raise UnreadableInput(
            f"{other:,} of {int(logged.sum()):,} rows have a step that another row has already, with other values: "
            "rows of several runs, ranks or micro-batches.",
            file=table.display_name,
            hint="Give the rows of one of them in a file of their own, or name the column that tells them apart: "
            "--map rank=<column> for ranks, --map attempt=<column> for restarts.",
        )
    if repeated:
        notes.append(
            f"{table.display_name}: {count(repeated, 'row')} repeat{'s' if repeated == 1 else ''} a step of the same "
            "attempt: for each column, the value that was written last is kept"
        )
    return names, RowKeys(step, attempts if attempts.any() else None, rank, rows), notes


def _through_all(
    table: Table, names: Names, step: Steps, rows: Steps | None, anchor: Values, logged: Mask, *, alone: bool
) -> tuple[Steps, str] | None:
    """(steps counted through epochs or rounds in which the logged ones begin again, how); None where they do not.

    `alone` says that neither a column nor a journal tells of attempts."""
    column = plain(names.logged_as.get("step", "step"), 60)
    epoch = table.numbers(names.epoch) if names.epoch is not None else None
    if epoch is not None:
        value = epoch.value if epoch.logged is None else np.where(epoch.logged, epoch.value, np.nan)
        counted = through_epochs(step, value if rows is None else value[rows], logged)
        if counted is not None:
            return counted[0], counted[1].format(epoch=plain(names.epoch, 60), step=column)
    counted = through_rounds(step, anchor, logged) if alone and "rank" not in names.logged_as else None
    return None if counted is None else (counted[0], counted[1].format(step=column))


def _usable(table: Table, column: StepColumn) -> tuple[Steps, Steps | None, list[str]]:
    """(step int64[n] of the rows that have a usable one, those rows, notes)."""
    if not table.rows:
        raise UnreadableInput("has no rows.", file=table.display_name)
    where, notes = column.where, list(column.notes)
    values, logged = column.numbers.value, column.numbers.logged
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(values) & (values >= 0) & (values < 2.0**63) & (np.floor(values) == values)
    if logged is not None:
        usable &= logged
    if usable.all():
        return values.astype(np.int64), None, notes
    rows = np.flatnonzero(usable)
    if not rows.size:
        raise UnreadableInput(f"no row of {where} has a step number (0, 1, 2, …).", file=table.display_name)
    lost = values.size - rows.size
    first = int(np.flatnonzero(~usable)[0]) + 1
    notes.append(
        f"{table.display_name}: {count(lost, 'row')} without a usable step in {where} (blank, negative, "
        f"fractional or no number; the first is data row {first}) {'was' if lost == 1 else 'were'} left out"
    )
    return values[rows].astype(np.int64), rows, notes


def _whole_numbers(table: Table, names: Names, key: str, rows: Steps | None) -> Steps | None:
    """attempt or rank as int64[n]; None where the column is absent or 0 in every row."""
    column = names.logged_as.get(key)
    if column is None:
        return None
    bounds = table.bounds(column)
    if bounds is not None and bounds.low == 0 and bounds.high == 0:
        return None
    read = table.numbers(column)
    if read is None:
        return None
    values, logged = read.value, read.logged
    usable = np.isfinite(values) & (np.abs(values) < 2.0**53)
    if logged is not None:
        usable &= logged
    out = np.where(usable, values, 0.0).astype(np.int64)
    return out if rows is None else out[rows]


def _anchor(table: Table, names: Names, rows: Steps | None, size: int) -> tuple[Values, Mask]:
    """(value float64[n], logged bool[n]) of the column whose values identify a training row: the loss, or else the
    column that is logged most often."""
    candidates = [name for key, name in names.logged_as.items() if key not in KEYS and not is_label(key)]
    preferred = [names.logged_as[key] for key in ("loss",) if key in names.logged_as]
    best: Numbers | None = None
    most_logged = 0
    for name in preferred or [*candidates, *names.unknown]:
        read = table.numbers(name)
        if read is None:
            continue
        logged_cells = table.rows - read.nulls
        if logged_cells > most_logged:
            best, most_logged = read, logged_cells
    if best is None:
        return np.zeros(size), np.ones(size, np.bool_)
    values, logged = best.value, best.logged
    logged = np.ones(values.size, np.bool_) if logged is None else logged
    return (values, logged) if rows is None else (values[rows], logged[rows])


def _repeated(values: Values, *keys: Steps) -> tuple[int, int]:
    """(the number of rows whose keys are those of another row before them, that of those with another value)."""
    order = np.lexsort(keys)
    same = np.ones(max(order.size - 1, 0), np.bool_)
    for key in keys:
        same &= key[order[1:]] == key[order[:-1]]
    before, after = values[order[:-1]], values[order[1:]]
    other = (before != after) & ~(np.isnan(before) & np.isnan(after))
    return int(same.sum()), int((same & other).sum())
