"""Row keys of a table: which column is the step, which rows have one, which attempt and rank they belong to."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from postmortem.errors import UnreadableInput
from postmortem.run.history import Keys
from postmortem.run.naming import Names, is_label, listing
from postmortem.run.rewinds import attempts_of
from postmortem.run.table import Table
from postmortem.run.values import Mask, Numbers
from postmortem.series import Steps, Values
from postmortem.sources._source import CountedSteps
from postmortem.text import plain


def read_keys(
    table: Table, names: Names, known: Collection[int], counted: CountedSteps | None = None
) -> tuple[Keys, list[str]]:
    """(keys of the rows that have a step, notes). `known` are steps to which the journal says the run went back.

    `counted` are steps by the rule of the log's format, instead of those in the step column.

    Raises:
        UnreadableInput: no step column, or no row with a usable step.
    """
    step, rows, notes = _steps(table, names, counted)
    rank = _whole(table, names, "rank", rows)
    attempt = _whole(table, names, "attempt", rows)
    if "attempt" in names.own or bool((step[1:] > step[:-1]).all()):
        return Keys(step, attempt, rank, rows), notes
    anchor, logged = _anchor(table, names, rows, step.size)
    derived = np.zeros(step.size, np.int64)
    ranks = np.zeros(step.size, np.int64) if rank is None else rank
    for r in np.unique(ranks):
        of_rank = np.flatnonzero(ranks == r)
        found, said = attempts_of(step[of_rank], anchor[of_rank], logged[of_rank], known, table.shown)
        derived[of_rank] = found
        notes += [note for note in said if note not in notes]
    repeated = _repeated(derived[logged], step[logged], ranks[logged])
    if repeated:
        notes.append(
            f"{table.shown}: {repeated} row{'s' if repeated > 1 else ''} repeat a step of the same attempt: "
            "for each column the value that was written last is kept"
        )
    return Keys(step, derived if derived.any() else None, rank, rows), notes


def _steps(table: Table, names: Names, counted: CountedSteps | None) -> tuple[Steps, Steps | None, list[str]]:
    own = names.own.get("step")
    if own is None and counted is None:
        if not table.names:
            raise UnreadableInput("holds no rows.", file=table.shown)
        raise UnreadableInput(
            f"no step column. Its columns: {listing(table.names)}.",
            file=table.shown,
            hint="Name the column that counts steps: --map step=<column>",
        )
    if not table.rows:
        raise UnreadableInput("holds no rows.", file=table.shown)
    where = f"column {plain(own, 60)}"
    notes: list[str] = []
    if counted is not None:
        read, where = counted.steps, "the steps of its format"
        notes = [f"{table.shown}: its steps are {plain(counted.how, 200)}"]
    elif (read := table.numbers(str(own))) is None:
        raise UnreadableInput(f"{where} holds no step numbers.", file=table.shown)
    values, logged = read.value, read.logged
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(values) & (values >= 0) & (values < 2.0**63) & (np.floor(values) == values)
    if logged is not None:
        usable &= logged
    if usable.all():
        return values.astype(np.int64), None, notes
    rows = np.flatnonzero(usable)
    if not rows.size:
        raise UnreadableInput(f"no row of {where} holds a step number (0, 1, 2, …).", file=table.shown)
    lost = values.size - rows.size
    first = int(np.flatnonzero(~usable)[0]) + 1
    notes.append(
        f"{table.shown}: {lost} row{'s' if lost > 1 else ''} without a usable step in {where} (blank, "
        f"negative, fractional or no number; the first is data row {first}) {'were' if lost > 1 else 'was'} left out"
    )
    return values[rows].astype(np.int64), rows, notes


def _whole(table: Table, names: Names, key: str, rows: Steps | None) -> Steps | None:
    """attempt or rank as int64[n]; None where the column is absent or 0 throughout."""
    own = names.own.get(key)
    if own is None:
        return None
    bounds = table.bounds(own)
    if bounds is not None and bounds.low == 0 and bounds.high == 0:
        return None
    read = table.numbers(own)
    if read is None:
        return None
    values, logged = read.value, read.logged
    usable = np.isfinite(values) & (np.abs(values) < 2.0**53)
    if logged is not None:
        usable &= logged
    out = np.where(usable, values, 0.0).astype(np.int64)
    return out if rows is None else out[rows]


def _anchor(table: Table, names: Names, rows: Steps | None, size: int) -> tuple[Values, Mask]:
    """(value float64[n], logged bool[n]) of the column that tells one training row from another: the loss, or else the
    column that is logged most often."""
    candidates = [own for key, own in names.own.items() if key not in ("step", "attempt", "rank") and not is_label(key)]
    preferred = [names.own[key] for key in ("loss",) if key in names.own]
    best: Numbers | None = None
    most = 0
    for own in preferred or [*candidates, *names.unknown]:
        read = table.numbers(own)
        if read is None:
            continue
        count = table.rows - read.nulls
        if count > most:
            best, most = read, count
    if best is None:
        return np.zeros(size), np.ones(size, np.bool_)
    values, logged = best.value, best.logged
    logged = np.ones(values.size, np.bool_) if logged is None else logged
    return (values, logged) if rows is None else (values[rows], logged[rows])


def _repeated(*keys: Steps) -> int:
    order = np.lexsort(keys)
    same = np.ones(max(order.size - 1, 0), np.bool_)
    for key in keys:
        same &= key[order[1:]] == key[order[:-1]]
    return int(same.sum())
