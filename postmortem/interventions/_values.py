"""What an intervention takes of its change. One that holds anything else cannot be meant, and raises UsageError."""

from __future__ import annotations

from postmortem.change import Change, Window
from postmortem.errors import UsageError
from postmortem.text import plain


def refused(change: Change, expected: str) -> UsageError:
    """The error for a change of another form, to be raised."""
    return UsageError(f"{plain(change, 60)}: expected {change.name}={expected}")


def whole(change: Change, expected: str) -> int:
    """A step or a seed."""
    (number,) = numbers(change, expected)
    return number


def numbers(change: Change, expected: str, *, windows: int = 0, least: int = 1, most: int = 1) -> tuple[int, ...]:
    """From `least` to `most` whole numbers that are not negative, beside as many `windows`."""
    found = tuple(value for value in change.values if isinstance(value, int) and value >= 0)
    if change.key or len(change.windows) != windows or found != change.values or not least <= len(found) <= most:
        raise refused(change, expected)
    return found


def positive(change: Change, expected: str) -> float:
    """A factor or a threshold."""
    if change.key or change.windows or len(change.values) != 1:
        raise refused(change, f"{expected}, a positive number")
    (value,) = change.values
    if isinstance(value, str) or value <= 0:
        raise refused(change, f"{expected}, a positive number")
    return float(value)


def word(change: Change, expected: str) -> str:
    """The first value, where it is a word; what follows it is the caller's to judge."""
    if change.key or change.windows or not change.values or not isinstance(change.values[0], str):
        raise refused(change, expected)
    return change.values[0]


def windows(change: Change, expected: str) -> tuple[Window, ...]:
    """Any number of windows of batches, and nothing else."""
    if change.key or change.values:
        raise refused(change, f"{expected}, batch indices and half-open")
    return change.windows


def window(change: Change, expected: str) -> Window:
    """One window of batches, and nothing else."""
    found = windows(change, expected)
    if len(found) != 1:
        raise refused(change, f"{expected}, batch indices and half-open")
    return found[0]
