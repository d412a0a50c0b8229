"""Row keys of a table: the step column, the rows that have a step, and their attempt and rank."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from postmortem.errors import UnreadableInput
from postmortem.run.columns import KEYS
from postmortem.run.history import RowKeys
from postmortem.run.naming import Names, is_label, name_list
from postmortem.run.rewinds import attempts_of
from postmortem.run.table import Table
from postmortem.run.values import Mask, Numbers
from postmortem.series import Steps, Values
from postmortem.sources._source import DerivedSteps
from postmortem.text import count, plain


def read_keys(
    table: Table, names: Names, targets: Collection[int], derived: DerivedSteps | None = None
) -> tuple[RowKeys, list[str]]:
    """(keys of the rows that have a step, notes). `targets` are steps to which the run went back by its journal.

    `derived` are steps by the rule of the log's format, instead of those in the step column.

    Raises:
        UnreadableInput: no step column, or no row with a usable step.
    """
    step, rows, notes = _steps(table, names, derived)
    rank = _whole_numbers(table, names, "rank", rows)
    attempt = _whole_numbers(table, names, "attempt", rows)
    if "attempt" in names.logged_as or bool((step[1:] > step[:-1]).all()):
        return RowKeys(step, attempt, rank, rows), notes
    anchor, logged = _anchor(table, names, rows, step.size)
    attempts = np.zeros(step.size, np.int64)
    ranks = np.zeros(step.size, np.int64) if rank is None else rank
    for r in np.unique(ranks):
        of_rank = np.flatnonzero(ranks == r)
        attempts[of_rank], rank_notes = attempts_of(
            step[of_rank], anchor[of_rank], logged[of_rank], targets, table.display_name
        )
        notes += [note for note in rank_notes if note not in notes]
    repeated = _repeated(attempts[logged], step[logged], ranks[logged])
    if repeated:
        notes.append(
            f"{table.display_name}: {count(repeated, 'row')} repeat{'s' if repeated == 1 else ''} a step of the same "
            "attempt: for each column, the value that was written last is kept"
        )
    return RowKeys(step, attempts if attempts.any() else None, rank, rows), notes


def _steps(table: Table, names: Names, derived: DerivedSteps | None) -> tuple[Steps, Steps | None, list[str]]:
    column = names.logged_as.get("step")
    if column is None and derived is None:
        if not table.names:
            raise UnreadableInput("has no rows.", file=table.display_name)
        raise UnreadableInput(
            f"no step column. Its columns: {name_list(table.names)}.",
            file=table.display_name,
            hint="Name the column that counts steps: --map step=<column>",
        )
    if not table.rows:
        raise UnreadableInput("has no rows.", file=table.display_name)
    where = f"column {plain(column, 60)}"
    notes: list[str] = []
    if derived is not None:
        read, where = derived.steps, "the steps of its format"
        notes = [f"{table.display_name}: its steps are {plain(derived.how, 200)}"]
    elif (read := table.numbers(str(column))) is None:
        raise UnreadableInput(f"{where} has no step numbers.", file=table.display_name)
    values, logged = read.value, read.logged
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


def _repeated(*keys: Steps) -> int:
    """The number of rows whose keys are those of another row before them."""
    order = np.lexsort(keys)
    same = np.ones(max(order.size - 1, 0), np.bool_)
    for key in keys:
        same &= key[order[1:]] == key[order[:-1]]
    return int(same.sum())
