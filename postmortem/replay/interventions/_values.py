"""Reading the values of interventions."""

from __future__ import annotations

import math
from collections.abc import Iterable

from postmortem.errors import UsageError
from postmortem.program import SkipWindow
from postmortem.text import plain


def whole(name: str, text: str) -> int:
    """A step, an index or a seed."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise UsageError(f"{name}={plain(text, 40)}: expected a whole number, 0 or more")
    return int(text)


def positive(name: str, text: str) -> float:
    """A factor or a threshold."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{name}={plain(text, 40)}: expected a positive number")
    return value


def window(name: str, text: str) -> SkipWindow:
    """FIRST:LAST, batch indices and half-open, or one index alone."""
    first, colon, last = text.partition(":")
    low = whole(name, first)
    high = whole(name, last) if colon else low + 1
    if high <= low:
        raise UsageError(f"{name}={plain(text, 40)}: [{low}, {high}) holds no batch; expected FIRST:LAST, half-open")
    return low, high


def shown(span: SkipWindow) -> str:
    """A window as it is printed everywhere: [312, 512)."""
    return f"[{span[0]}, {span[1]})"


def windows(name: str, text: str) -> tuple[SkipWindow, ...]:
    """Several windows, separated by commas, merged where they touch."""
    return merged([window(name, one) for one in text.split(",")])


def merged(spans: Iterable[SkipWindow]) -> tuple[SkipWindow, ...]:
    """Windows in order, those that touch as one."""
    found: list[SkipWindow] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)


def joined(spans: Iterable[SkipWindow]) -> str:
    """Windows as the command line takes them."""
    return ",".join(f"{first}:{last}" for first, last in spans)
