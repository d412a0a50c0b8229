"""Measurements that several panels share."""

from __future__ import annotations

from collections.abc import Iterable

from postmortem.case import Case, Departure
from postmortem.text import number, plain, times


def departed(case: Case, names: Iterable[str], sign: int = 0) -> tuple[list[Departure], int]:
    """The departures of those columns that moved, first mover first, and how many could be compared at all."""
    compared = [d for name in names if (d := case.departure(name, sign=sign)) is not None]
    moved = [d for d in compared if d.moved]
    return sorted(moved, key=lambda d: (d.first_step, -abs(d.z))), len(compared)


def compared(d: Departure) -> str:
    """`47.2 at step 312, baseline 0.6 (79×)`."""
    factor = f" ({times(d.ratio)})" if d.ratio == d.ratio and abs(d.ratio) != float("inf") else ""
    return f"{number(d.value)} at step {d.step}, baseline {number(d.baseline)}{factor}"


def figures(d: Departure) -> dict[str, float]:
    """The figures behind `compared`, for the JSON."""
    return {"value": d.value, "baseline": d.baseline, "ratio": d.ratio, "z": d.z, "first_step": d.first_step}


def order(moved: list[Departure]) -> str:
    """Which member of a family moved first, and which followed: `layer 0 (step 312), then layer 1 (step 313)`."""
    parts = [f"{plain(d.column.partition('/')[2], 40)} (step {d.first_step})" for d in moved[:4]]
    more = f" and {len(moved) - 4} more" if len(moved) > 4 else ""
    return ", then ".join(parts) + more
