"""Numbers in the spellings of people: decimal commas (2,31), thousands (1,200), a count of a whole (12/900).

A column is read in one spelling or not at all: `1,234` alone may be either of two numbers, and half a column is worse
than none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from postmortem.run.values import Numbers, is_spelled, parse_number
from postmortem.series import Values

_DECIMAL = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?")
_OF_A_WHOLE = re.compile(r"(\d+)\s*/\s*(\d+)")

_DECIMAL_COMMAS = "written with decimal commas"


@dataclass(frozen=True, slots=True, eq=False)
class Spelled:
    """A column that was read: its numbers, how many cells are none, and `how`, which completes "the column is …".

    `decimal` says that its commas are decimal commas."""

    numbers: Numbers
    dropped: int
    how: str
    decimal: bool


def read_spelled(cells: Sequence[object], *, decimal: bool = False) -> Spelled | None:
    """The column in the one spelling that fits all of its cells; None where none does, or more than one.

    With `decimal`, the commas of the log are decimal commas: another of its columns says so.
    `cells` are text, numbers, or None where not logged. As in any column, words among the numbers are not logged, as
    long as they are fewer than the numbers.
    """
    spelled = {i: cell.strip() for i, cell in enumerate(cells) if isinstance(cell, str) and is_spelled(cell)}
    if not spelled:
        return None
    value, logged = np.zeros(len(cells)), np.zeros(len(cells), np.bool_)
    words = 0
    for i, cell in enumerate(cells):
        if i in spelled:
            continue
        try:
            number = parse_number(cell)
        except ValueError:
            words += 1
            continue
        if number is not None:
            value[i], logged[i] = number, True
    plain = value[logged & np.isfinite(value)]
    rows = np.fromiter(spelled, np.int64, len(spelled))
    logged[rows] = True
    spellings: list[Spelled] = []
    for read, how in _readings(list(spelled.values()), plain):
        column = value.copy()
        column[rows] = read
        spellings.append(Spelled(Numbers(column, logged), words, how, how.startswith(_DECIMAL_COMMAS)))
    spellings = [column for column in spellings if column.decimal] if decimal else spellings
    # of two readings, a column that rises from row to row counts something, in thousands
    spellings = (
        spellings
        if len(spellings) < 2
        else [s for s in spellings if bool((np.diff(s.numbers.value[logged]) > 0).all())][-1:]
    )
    return spellings[0] if spellings and words <= logged.sum() else None


def _readings(texts: Sequence[str], plain: Values) -> list[tuple[list[float], str]]:
    """(the numbers of the texts, how the column is written) in each spelling that fits all texts and the `plain`
    numbers beside them, float64[n]; thousands last."""
    spellings: list[tuple[list[float], str]] = []
    parts = [match for text in texts if (match := _OF_A_WHOLE.fullmatch(text))]
    if len(parts) == len(texts) and len({match[2] for match in parts}) == 1:
        spellings.append(([float(match[1]) for match in parts], f"a count of a whole, as in {texts[0]}"))
    if all(map(_DECIMAL.fullmatch, texts)) and not any(map(_has_point, plain.tolist())):
        spellings.append(([float(text.replace(",", ".")) for text in texts], f"{_DECIMAL_COMMAS} ({texts[0]})"))
    if all(map(_THOUSANDS.fullmatch, texts)) and bool((np.abs(plain) < 1000).all()):
        spellings.append(([float(text.replace(",", "")) for text in texts], f"written in thousands ({texts[0]})"))
    return spellings


def _has_point(number: float) -> bool:
    """Whether a decimal point is needed to write it: 2.5 and 2.5e-05, not 2.0 or 5e-05."""
    return not number.is_integer() and "." in repr(number)
