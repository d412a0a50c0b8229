"""The meaning of a logged cell: null (not logged), a number, a non-finite number, or a label.

Text becomes numbers only here, so that null and NaN are the same in every format:

    blank, None, null, N/A, NA, <NA>, -      → null: not logged
    NaN, nan, ±inf, ±Infinity (any case)     → non-finite: a measurement
    anything else that `float` reads         → that number

Decimal commas and the like (`is_spelled`) stay text here: only the whole column says which number they are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from postmortem.series import Values

Mask = NDArray[np.bool_]
Objects = NDArray[np.object_]
NULL_TOKENS = frozenset({"", "none", "null", "n/a", "na", "<na>", "-"})
_LONGEST_NULL = max(map(len, NULL_TOKENS))
_LONGEST_NUMBER = 4_096  # characters; more digits than that are no measurement
_SPELLED = re.compile(r"[-+]?\d+(?:,\d+)+(?:\.\d*)?(?:[eE][-+]?\d+)?|\d+\s*/\s*\d+")
_LONGEST_SPELLED = 100  # characters
_NON_FINITE: Mapping[str, float] = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """A column of n numbers: value float64[n], valid where logged bool[n] is true; None: every row is logged."""

    value: Values
    logged: Mask | None

    @property
    def nulls(self) -> int:
        """Number of rows that are not logged."""
        return 0 if self.logged is None else int(self.logged.size - self.logged.sum())


@dataclass(frozen=True, slots=True, eq=False)
class LabelCells:
    """A column of n labels: value object[n] of text, lists or whole numbers; None where not logged."""

    value: Objects

    @property
    def nulls(self) -> int:
        """Number of rows that are not logged."""
        return sum(v is None for v in self.value)


Cells = Numbers | LabelCells


def is_null(text: str) -> bool:
    """Whether a text means "not logged". Its case matters only where it is short: a log may repeat a long one."""
    stripped = text.strip()
    return len(stripped) <= _LONGEST_NULL and stripped.lower() in NULL_TOKENS


def is_spelled(value: object) -> bool:
    """Whether a cell is a number with commas, or a count of a whole: `2,31`, `1,200`, `12/900`."""
    if not isinstance(value, str) or ("," not in value and "/" not in value) or len(value) > _LONGEST_SPELLED:
        return False
    return _SPELLED.fullmatch(value.strip()) is not None


def parse_number(value: object) -> float | None:
    """`value`, a number or text, as a float, or None where it means "not logged".

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
        if len(value) > _LONGEST_NUMBER:
            raise ValueError(f"not a number: text of {len(value)} characters")
        return None if is_null(value) else float(value)
    raise ValueError(f"not a number: {value!r:.50}")


def cells_of(values: Sequence[object], *, label: bool) -> tuple[Cells, int]:
    """(one column of Python values as cells, the number of cells that were dropped as unreadable).

    A column becomes `Numbers` where at least half of its logged cells can be read as numbers, and none is in a spelling
    that only the whole column tells. With `label`, text that looks like numbers stays text: a hash of digits is no
    number.
    """
    if not label:
        numbers, dropped = _numbers(values)
        if numbers is not None:
            return numbers, dropped
    labels = np.full(len(values), None, np.object_)
    for i, value in enumerate(values):
        labels[i] = _label_value(value)
    return LabelCells(labels), 0


def _numbers(values: Sequence[object]) -> tuple[Numbers | None, int]:
    """(the column as numbers, or None where less than half of its logged cells are; the cells that are no number)."""
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
            read = parse_number(value)
        except ValueError:
            if is_spelled(value):
                return None, 0
            dropped += 1
            continue
        if read is not None:
            out[i], logged[i] = read, True
    return (None, 0) if dropped > logged.sum() else (Numbers(out, logged), dropped)


def _label_value(value: object) -> object:
    if isinstance(value, str):
        return None if is_null(value) else value
    if isinstance(value, list):
        return _with_non_finite(cast(list[object], value))
    return json.dumps(value) if isinstance(value, dict) else value


def _with_non_finite(values: list[object]) -> list[object]:
    """The list with the three JSON spellings of non-finite numbers as numbers."""
    if not any(isinstance(v, (str, list)) for v in values):
        return values
    return [
        _with_non_finite(cast(list[object], v))
        if isinstance(v, list)
        else _NON_FINITE.get(v, v)
        if isinstance(v, str)
        else v
        for v in values
    ]
