"""The columns of a log whose meaning is not known: which of them are looked at, which turned non-finite, and which left
their baseline at an incident."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from postmortem.case import Case
from postmortem.diagnosis import OtherColumn
from postmortem.run import Run
from postmortem.run.columns import is_clock
from postmortem.series import Series
from postmortem.text import plain

MOST_COLUMNS = 100  # that are looked at: a log may have thousands
MOST_VALUES = 4_000_000  # and the values that they may have together: 32 MB
MOST_MOVED = 8  # columns that are named at an incident


@dataclass(frozen=True)
class NonFinite:
    """A column that is not finite from `step` to its end, and was finite before; `last` is its last value."""

    column: str
    step: int
    last: float


def by_likeness(run: Run) -> list[str]:
    """The names of all of them but those that measure the machine; those with "loss" in their name first."""
    names = [name for name in run.other_columns if not is_clock(name)]
    return sorted(names, key=lambda name: not names_loss(name))


def names_loss(name: str) -> bool:
    """Whether a column could be a loss by its name."""
    return "loss" in name.lower()


def looked_at(run: Run) -> list[str]:
    """The names of those that are looked at."""
    return by_likeness(run)[: min(MOST_COLUMNS, MOST_VALUES // max(1, run.row_steps.size))]


def left_out(run: Run) -> int:
    """How many are not looked at, because they are too many."""
    return len(by_likeness(run)) - len(looked_at(run))


def turned_non_finite(run: Run) -> list[NonFinite]:
    """The columns that became NaN or infinite and stayed so, in the order in which they did.

    A column without a finite value says nothing (a perplexity that always overflows), and neither does one that is NaN
    now and then (a score that is undefined, a value that is measured in some rows only): its last stretch must be
    longer than each one before it.
    """
    turned_columns = (_turned(series) for name in looked_at(run) if (series := run.series(name)) is not None)
    return sorted((turned for turned in turned_columns if turned is not None), key=lambda turned: turned.step)


def _turned(series: Series) -> NonFinite | None:
    finite = np.flatnonzero(np.isfinite(series.value))
    if not finite.size:
        return None
    gaps = np.diff(finite, prepend=-1) - 1  # rows that are not finite, before each finite one
    first = int(finite[-1]) + 1
    if len(series) - first <= int(gaps.max()):
        return None
    return NonFinite(series.name, int(series.step[first]), float(series.value[-1]))


def other_columns_moved(case: Case) -> tuple[OtherColumn, ...]:
    """The columns that left their baseline in the incident, the furthest first. A counter, which never falls or never
    rises, is not among them."""
    departures = [d for name in _not_counting(case) if (d := case.departure(name)) is not None and d.moved]
    departures.sort(key=lambda departure: -abs(departure.z))
    return tuple(OtherColumn(plain(d.column, 80), d.step, d.value, d.baseline) for d in departures[:MOST_MOVED])


def _not_counting(case: Case) -> Iterator[str]:
    for name in looked_at(case.run):
        series = case.series(name)
        rises = None if series is None else np.diff(series.value[np.isfinite(series.value)])
        if rises is not None and (rises < 0).any() and (rises > 0).any():
            yield name
