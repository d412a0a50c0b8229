"""A replay in words: what was asked for, and what came of it."""

from __future__ import annotations

from postmortem.replay.result import Difference, ReplayResult
from postmortem.run.recorded import IDENTITY
from postmortem.text import number, plain

_NAMES = {"batch_hash": "batch", "loss": "loss", "grad_norm": "gradient norm", "param_hash": "parameters"}


def reproduction(result: ReplayResult) -> str:
    """One line: the replay is the run bit for bit, or where it parts from it, or why bits cannot be expected."""
    told = [_NAMES[column] for column in IDENTITY if column in result.columns]
    if not result.compared:
        return "nothing to hold it against: the run recorded no loss, gradient norm, batch or parameters of these steps"
    if result.exact:
        return f"bit for bit: {result.compared} row{'s' * (result.compared > 1)}, {', '.join(told)}"
    first = result.differences[0]
    parts = f"parts from the run at step {first.step}, first in its {_NAMES[first.column]}: {_values(first)}"
    if result.arithmetic:
        return f"other arithmetic: {'; '.join(result.arithmetic)}: bits cannot be expected; {parts}"
    return parts


def _values(difference: Difference) -> str:
    return f"{_value(difference.replayed)} (was {_value(difference.recorded)})"


def _value(value: float | str | None) -> str:
    """A figure in full where four digits may not tell it from another; of a hash, enough to know it by."""
    if isinstance(value, float):
        return repr(value) if value == value and abs(value) != float("inf") else number(value)
    return "none" if value is None else plain(value, 12)
