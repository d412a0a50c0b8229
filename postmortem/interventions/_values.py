"""Reads the values of a change, as the interventions expect them; everything else raises UsageError."""

from __future__ import annotations

import re

from postmortem.change import Change, Window
from postmortem.errors import UsageError
from postmortem.text import plain

_RANGE = re.compile(r"(\d{1,15})\s?(?:-|–|\.\.)\s?(\d{1,15})", re.ASCII)
"""A window of batches as it is written elsewhere: 312-512."""


def refused(change: Change, expected: str) -> UsageError:
    """The error to raise for a change in any other form."""
    meant = _RANGE.fullmatch(str(change.values[0])) if len(change.values) == 1 else None
    hint = f"; batches {meant[1]} to {int(meant[2]) - 1} are {meant[1]}:{meant[2]}" if meant else ""
    return UsageError(f"{plain(change, 60)}: expected {change.name}={expected}{hint}")


def whole(change: Change, expected: str) -> int:
    """A step or a seed."""
    (number,) = numbers(change, expected)
    return number


def numbers(change: Change, expected: str, *, windows: int = 0, least: int = 1, most: int = 1) -> tuple[int, ...]:
    """Between `least` and `most` non-negative whole numbers, after exactly as many windows as `windows` says."""
    whole_numbers = tuple(value for value in change.values if isinstance(value, int) and value >= 0)
    if (
        change.key
        or len(change.windows) != windows
        or whole_numbers != change.values
        or not least <= len(whole_numbers) <= most
    ):
        raise refused(change, expected)
    return whole_numbers


def positive(change: Change, expected: str) -> float:
    """A factor or a threshold."""
    if change.key or change.windows or len(change.values) != 1:
        raise refused(change, f"{expected}, a positive number")
    (value,) = change.values
    if isinstance(value, str) or value <= 0:
        raise refused(change, f"{expected}, a positive number")
    return float(value)


def word(change: Change, expected: str) -> str:
    """The first value, which must be a word. The caller checks the values after it."""
    if change.key or change.windows or not change.values or not isinstance(change.values[0], str):
        raise refused(change, expected)
    return change.values[0]


def windows(change: Change, expected: str) -> tuple[Window, ...]:
    """Any number of windows of batches, without further values."""
    if change.key or change.values:
        raise refused(change, f"{expected}, a half-open window of batch indices")
    return change.windows


def window(change: Change, expected: str) -> Window:
    """One window of batches, without further values."""
    spans = windows(change, expected)
    if len(spans) != 1:
        raise refused(change, f"{expected}, a half-open window of batch indices")
    return spans[0]
