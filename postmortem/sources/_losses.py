"""The loss of a log that names only parts of it: guessed from the values where one is the sum of the others."""

from __future__ import annotations

from shlex import quote

import numpy as np

from postmortem.run.naming import Names, name_list
from postmortem.run.table import Table
from postmortem.series import Values
from postmortem.text import plain

_FEWEST_ROWS = 5
_ROUNDING = 1e-3
"""How far a sum of rounded parts may be from the rounded total, relative to the total."""

_MOST_PARTS = 50


def with_guessed_loss(table: Table, names: Names) -> Names:
    """The names with `loss`, where one of their `losses` is the sum of the others, or all are the same in every row; a
    note says how it was found, or what was not."""
    if not names.losses:
        return names
    parts = names.losses[:_MOST_PARTS]
    values = _values(table, parts)
    file, several = table.display_name, f"{name_list(parts)} are losses, none of which is the total by its name"
    for i, name in enumerate(parts):
        column, others = plain(name, 60), [part for part in parts if part != name]
        if values.shape[1] >= _FEWEST_ROWS and _equal(values[i], values.sum(axis=0) - values[i]) and len(others) > 1:
            how = f"the sum of {name_list(others)} in every row"
        elif values.shape[1] >= _FEWEST_ROWS and all(_equal(values[i], other) for other in values):
            how = f"the same as {name_list(others)} in every row"
        else:
            continue
        note = f"{file}: loss is read from column {column}: guessed, because it is {how} (--map loss=<column> decides)"
        return names.reading("loss", name, note)
    return names.noting(
        f"{file}: {several}: none is read as the loss (--map loss={quote(plain(parts[0], 60))} would name one)"
    )


def _values(table: Table, columns: tuple[str, ...]) -> Values:
    """The columns in the rows that log all of them with finite values: float64[columns, n]."""
    read = [numbers for name in columns if (numbers := table.numbers(name)) is not None]
    if len(read) < len(columns):
        return np.zeros((len(columns), 0))
    logged = np.ones(table.rows, np.bool_)
    for numbers in read:
        logged &= np.isfinite(numbers.value) & (True if numbers.logged is None else numbers.logged)
    return np.stack([numbers.value[logged] for numbers in read])


def _equal(a: Values, b: Values) -> bool:
    """Whether two columns are equal up to their rounding, and not 0 throughout."""
    return bool(np.allclose(a, b, rtol=_ROUNDING, atol=_ROUNDING * float(np.abs(a).mean())) and a.any())
