"""What a logged cell means: null (not logged), a number, a non-finite number, or a label.

The one place where text becomes numbers, so that every format tells null from NaN in the same way:

    blank, None, null, N/A, NA, <NA>, -      → null: not logged
    NaN, nan, ±inf, ±Infinity (any case)     → non-finite: a measurement
    anything else that `float` reads         → that number
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from postmortem.series import Values

Mask = NDArray[np.bool_]
Objects = NDArray[np.object_]
NULL_TOKENS = frozenset({"", "none", "null", "n/a", "na", "<na>", "-"})
_NON_FINITE: Mapping[str, float] = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """A column of n numbers: value float64[n], meaningful where logged bool[n] holds; None means that every row is."""

    value: Values
    logged: Mask | None

    @property
    def nulls(self) -> int:
        """Number of rows that are not logged."""
        return 0 if self.logged is None else int(self.logged.size - self.logged.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Things:
    """A column of n labels: value object[n] of text, lists or whole numbers; None where not logged."""

    value: Objects

    @property
    def nulls(self) -> int:
        """Number of rows that are not logged."""
        return sum(v is None for v in self.value)


Cells = Numbers | Things


def number(value: object) -> float | None:
    """`value` as a float, or None where it says "not logged".

    Raises:
        ValueError: it is neither (a word, a list, …).
    """
    if value is None:
        return None
    if isinstance(value, (bool, int, float)):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if isinstance(value, str):
        return None if value.strip().lower() in NULL_TOKENS else float(value)
    raise ValueError(f"not a number: {value!r:.50}")


def cells_of(values: Sequence[object], *, label: bool) -> tuple[Cells, int]:
    """One column of Python values, and the count of its cells that were dropped as unreadable.

    A column of which at least half of the logged cells read as numbers becomes `Numbers`. `label` keeps text that
    looks like numbers as text: a hash of digits is no number.
    """
    if not label:
        numbers, dropped = _numbers(values)
        if numbers is not None:
            return numbers, dropped
    things = np.full(len(values), None, np.object_)
    for i, value in enumerate(values):
        things[i] = _thing(value)
    return Things(things), 0


def _numbers(values: Sequence[object]) -> tuple[Numbers | None, int]:
    """The column as numbers where at least half of its logged cells are, else None; and the cells that are none."""
    try:
        return Numbers(np.array([float(v) for v in cast(Sequence[float], values)], np.float64), None), 0
    except (TypeError, ValueError, OverflowError):
        pass
    out = np.zeros(len(values), np.float64)
    logged = np.zeros(len(values), np.bool_)
    dropped = 0
    for i, value in enumerate(values):
        if value is None or value == "":
            continue
        try:
            read = number(value)
        except ValueError:
            dropped += 1
            continue
        if read is not None:
            out[i], logged[i] = read, True
    return (None, 0) if dropped > logged.sum() else (Numbers(out, logged), dropped)


def _thing(value: object) -> object:
    if isinstance(value, str):
        return None if value.strip().lower() in NULL_TOKENS else value
    if isinstance(value, list):
        return _clean(cast(list[object], value))
    return json.dumps(value) if isinstance(value, dict) else value


def _clean(values: list[object]) -> list[object]:
    """The list with the three JSON spellings of non-finite numbers read back as numbers."""
    if not any(isinstance(v, (str, list)) for v in values):
        return values
    return [
        _clean(cast(list[object], v)) if isinstance(v, list) else _NON_FINITE.get(v, v) if isinstance(v, str) else v
        for v in values
    ]
