"""Measurements that several panels share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

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


QUANTILES = {"token_loss_p50": 0.5, "token_loss_p90": 0.9, "token_loss_p99": 0.99, "token_loss_max": 1.0}


def token_share_of_rise(case: Case) -> tuple[float, int] | None:
    """(share, step): how much of the loss's rise the token quantiles of the same row account for, at the best such row.

    The loss is the mean over tokens, so its rise is the integral of the quantiles' rise over the levels (trapezoid
    between the levels that are logged, the lowest one's rise assumed below it). A share near 1: the log agrees with
    itself; near 0: the quantiles do not know of the rise. None where the loss did not rise, or nothing can be compared.
    """
    loss, peak = case.series("loss"), case.departure("loss", sign=1)
    levels = [name for name in QUANTILES if case.level(name) is not None]
    if loss is None or peak is None or not peak.moved or not np.isfinite(peak.value) or len(levels) < 2:
        return None
    best: tuple[float, int] | None = None
    rows = loss.window(*case.span)
    for step, value in zip(rows.step.tolist(), rows.value.tolist(), strict=True):
        rise = value - peak.baseline
        here = {name: case.departure(name, (step, step + 1)) for name in levels}
        if not rise >= 0.5 * (peak.value - peak.baseline) or any(d is None for d in here.values()):
            continue
        shifts = [d.value - d.baseline for d in here.values() if d is not None]
        at = [0.0, *(QUANTILES[name] for name in levels)]
        share = float(np.trapezoid([shifts[0], *shifts], at)) / rise
        if np.isfinite(share) and (best is None or share > best[0]):
            best = share, step
    return best
