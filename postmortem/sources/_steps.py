"""Which column counts the steps of a log, and how its rows are counted where none simply does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from postmortem.errors import UnreadableInput
from postmortem.run.naming import Names, name_list
from postmortem.run.table import Table
from postmortem.run.values import Mask, Numbers
from postmortem.series import Steps, Values
from postmortem.sources._several_runs import check_one_run
from postmortem.sources._source import DerivedSteps
from postmortem.stats import median
from postmortem.text import plain

_LEVEL = 5
"""Rows whose median is the level of the loss, before and after its steps begin again."""

_CLEARLY = 2
"""Times nearer that the loss of a round must begin to where the round before it began than to where that one ended, for
the training to have begun anew and not only the count of its steps."""


@dataclass(frozen=True, eq=False)
class StepColumn:
    """The logged step of each row of a table; `where` names the column in messages."""

    numbers: Numbers
    where: str
    notes: tuple[str, ...] = ()


def step_column(
    table: Table, names: Names, derived: DerivedSteps | None, *, declared: bool
) -> tuple[Names, StepColumn]:
    """(the names, with the column that counts the steps; its values).

    That is the first candidate of the names, unless its values count nothing: most of them are fractions, or all are
    the same. Where there is no other, epochs do, or the order of the rows where several share an epoch. What --map or
    run.json declare is not doubted, and `derived` are steps by the rule of the log's format.

    Raises:
        UnreadableInput: no column counts steps.
        TableOfRuns: rows of several runs.
    """
    file = table.display_name
    if derived is not None:
        how = f"{file}: its steps are {plain(derived.how, 200)}"
        return names, StepColumn(derived.steps, "the steps of its format", (how,))
    columns = names.steps[:1] if declared else names.steps
    candidates = {name: read for name in columns if (read := table.numbers(name)) is not None}
    column = names.logged_as.get("step") if declared else _first_counter(candidates)
    if column is None and (read := _epochs(table, names, tuple(candidates))) is not None:
        return read
    column = column or names.logged_as.get("step")
    if column is None:
        if not table.names:
            raise UnreadableInput("has no rows.", file=file)
        raise UnreadableInput(
            f"no step column. Its columns: {name_list(table.names)}.",
            file=file,
            hint="Name the column that counts steps: --map step=<column>",
        )
    where = f"column {plain(column, 60)}"
    if column not in candidates:
        problem = f"{where} has no step numbers." if table.rows else "has no rows."
        raise UnreadableInput(problem, file=file)
    others = [name for name in columns if name != column]
    note = f"{file}: step is read from {where}, not {name_list(others)}"
    notes = (note,) if others and column != "step" else ()
    return names.reading("step", column), StepColumn(candidates[column], where, notes)


def _first_counter(candidates: dict[str, Numbers]) -> str | None:
    """The first column whose values are whole numbers and not all the same, and that half as many rows log as any."""
    most = max((_logged(read).size for read in candidates.values()), default=0)
    for name, read in candidates.items():
        values = _logged(read)
        whole = np.mean(values == np.floor(values)) if values.size else 0.0
        if 2 * values.size >= most and whole > 0.5 and (values.size < 2 or np.ptp(values) > 0):
            return name
    return None


def _epochs(table: Table, names: Names, fractions: tuple[str, ...]) -> tuple[Names, StepColumn] | None:
    """The epochs as steps, or the order of the rows by them or by the `fractions` that should have been steps; None
    where there is no such column, or it goes back so that its rows are of several runs."""
    file = table.display_name
    for name in (*filter(None, [names.epoch]), *fractions):
        read = table.numbers(name)
        values = np.zeros(0) if read is None else _logged(read)
        if read is None or not values.size or (values.size > 1 and np.ptp(values) == 0):
            continue
        loss = names.logged_as.get("loss")
        of_loss = None if loss is None else table.numbers(loss)
        trained = None if of_loss is None else of_loss.logged
        apart = np.diff(_logged(read, trained))
        whole = bool((values == np.floor(values)).all())
        if name == names.epoch and whole and (apart != 0).all():
            note = f"{file}: no column counts steps: column {plain(name, 60)} is read as the step"
            return names.reading("step", name), StepColumn(read, f"column {plain(name, 60)}", (note,))
        if not whole or (apart >= 0).all():
            _check_one_run_of_epochs(table, names, read, trained)
            why = "is a fraction" if not whole else "is the same in several rows"
            note = f"{file}: its steps are the order of its rows: no column counts steps, and {plain(name, 60)} {why}"
            return names, StepColumn(Numbers(np.arange(table.rows, dtype=np.float64), None), "its rows", (note,))
    return None


def _check_one_run_of_epochs(table: Table, names: Names, epochs: Numbers, trained: Mask | None) -> None:
    """Tell apart rows of several runs that share the numbers of their epochs."""
    with np.errstate(invalid="ignore"):
        usable = np.abs(epochs.value) < 2.0**53
    rows = np.flatnonzero(usable if epochs.logged is None else usable & epochs.logged)
    step = np.floor(epochs.value[rows]).astype(np.int64)
    of_loss = np.ones(rows.size, np.bool_) if trained is None else trained[rows]
    check_one_run(table, names, step, rows, of_loss, labels=False)


def _logged(read: Numbers, rows: Mask | None = None) -> Values:
    """The finite values of a column that are logged, in `rows` only."""
    keep = np.isfinite(read.value)
    if read.logged is not None:
        keep &= read.logged
    return read.value[keep if rows is None else keep & rows]


def through_epochs(step: Steps, epoch: Values, trained: Mask) -> tuple[Steps, str] | None:
    """(steps counted through all epochs int64[n], how) where the step begins again in each epoch; None where not.

    `epoch` is float64[n], NaN where not logged; `trained` are the rows that log the loss: others, such as those of an
    evaluation, may count something else, and then stand at the end of their epoch. A step that counts on may be logged
    in several epochs at a resume, but never in all.
    """
    known = np.maximum.accumulate(np.where(np.isfinite(epoch), np.arange(epoch.size), 0))
    epoch = np.floor(epoch[known])
    if not np.isfinite(epoch).all() or not trained.any():
        return None
    numbers, group = np.unique(epoch[trained], return_inverse=True)
    low, high = np.full(numbers.size, np.iinfo(np.int64).max), np.full(numbers.size, -1)
    np.minimum.at(low, group, step[trained])
    np.maximum.at(high, group, step[trained])
    again = 2 * low[1:] <= low[:-1] + high[:-1]
    if numbers.size < 2 or numbers[0] < 0 or not again.all():
        return None
    length = int(high.max() - low.min()) + _stride(step[trained])
    if float(numbers[-1]) * length > 2**53:
        return None
    first = 0 if numbers[0] == 0 else 1  # epochs are counted from 0 or from 1
    steps = (epoch.astype(np.int64) - first) * length + np.minimum(step, high.max())
    return steps, f"{'({epoch} − 1)' if first else '{epoch}'} × {length} + {{step}}, which begins again in each epoch"


def through_rounds(step: Steps, loss: Values, trained: Mask) -> tuple[Steps, str] | None:
    """(steps counted through all rounds int64[n], how) where the step begins again and again, and the loss does not.

    None where the loss begins anew with the step, or where it does not tell and the rounds are not all of one length.
    `loss` is float64[n], and `trained` are the rows that log it.
    """
    rows = np.flatnonzero(trained)
    s, values = step[rows], loss[rows]
    jumps = np.flatnonzero(s[1:] < s[:-1]) + 1
    if not jumps.size or (s[jumps] != s[0]).any():
        return None
    before = np.array([median(values[max(j - _LEVEL, 0) : j]) for j in jumps.tolist()])
    begins = np.array([median(values[j : j + _LEVEL]) for j in (0, *jumps.tolist())])
    with np.errstate(invalid="ignore", over="ignore"):
        moved, anew = np.nansum(np.abs(begins[1:] - before)), np.nansum(np.abs(np.diff(begins)))
        is_anew, goes_on = _CLEARLY * anew < moved, _CLEARLY * moved < anew
    of_one_length = jumps.size > 1 and np.ptp(s[jumps - 1]) == 0 and s[-1] <= s[jumps[0] - 1]
    if is_anew or not (of_one_length or goes_on):
        return None
    length = int(s.max() - s[0]) + _stride(s)
    of_round = np.searchsorted(rows[jumps], np.arange(step.size), side="right")
    steps = of_round * length + np.minimum(step, s.max())
    return steps, f"{length} × the round + {{step}}, which begins again after each round while the loss goes on"


def _stride(step: Steps) -> int:
    """The usual distance of two rows."""
    forward = np.diff(step)
    return int(median(forward[forward > 0])) if (forward > 0).any() else 1
