"""Says in words whether a replay reproduces its run."""

from __future__ import annotations

import math

from postmortem.run.recorded import IDENTITY_COLUMNS
from postmortem.run.replayed import Difference, ReplayResult
from postmortem.text import number, plain

_NAMES = {"batch_hash": "batch", "loss": "loss", "grad_norm": "gradient norm", "param_hash": "parameters"}


def reproduction(result: ReplayResult) -> str:
    """One line: the replay equals the run bit for bit, or where it differs, or why equal bits cannot be expected."""
    names = [_NAMES[column] for column in IDENTITY_COLUMNS if column in result.columns]
    if not result.compared:
        return "nothing to compare: the run recorded no loss, gradient norm, batch or parameters in these steps"
    if result.exact:
        return f"bit for bit: {result.compared} row{'s' * (result.compared > 1)}, {', '.join(names)}"
    first = result.differences[0]
    column, values = _NAMES[first.column], _replayed_and_recorded(first)
    difference = f"differs from the run from step {first.step} on, first in its {column}: {values}"
    if result.arithmetic:
        return f"other arithmetic: {'; '.join(result.arithmetic)}: bits cannot be expected; {difference}"
    return difference


def _replayed_and_recorded(difference: Difference) -> str:
    return f"{_full_value(difference.replayed)} (was {_full_value(difference.recorded)})"


def _full_value(value: float | str | None) -> str:
    """A number with all digits, because four may not show the difference; the first digits of a hash."""
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else number(value)
    return "none" if value is None else plain(value, 12)
