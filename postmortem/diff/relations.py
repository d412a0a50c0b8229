"""Finds columns of b that follow from those of a by one number: a constant factor, or in nats a constant distance.

A mean that was not divided by its number of parts (micro-batches, processes, items) is an exact factor in the loss and
in the gradient norm. So a factor is told only where the rows hardly scatter about it. A distance lies between two
trainings, which have noise: it is told where the rows scatter little enough that none of them is near zero.

A factor holds for all common rows, or from a resume or from the column's first difference on; a distance only from
there on: two trainings that were never equal have one at any time, and the gap says it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from postmortem.diff.model import ColumnDiff, Form, Relation
from postmortem.diff.pair import Curve, Pair
from postmortem.run.columns import describe
from postmortem.series import Values

FEWEST_ROWS = 10  # rows of a relation, and before it: fewer show no scatter
MOST_ROWS = 20_000  # rows that are looked at, evenly spaced: more of them hardly move a quantile
ODD_SHARE = 0.05  # the share of the rows that may be anywhere, on either side: a spike in only one run
# The share of a relation over which nine rows in ten may scatter: of a factor's logarithm, and of a distance, where it
# leaves the level of Gaussian rows 6.6 sigmas from zero.
SCATTER: Mapping[Form, float] = {"factor": 0.1, "offset": 0.5}
WIDEST = 0.1  # … and at most ±5 % of a factor, however large it is
STEADY = 0.1  # from the first third of its rows to the last, and from zero before it, a relation differs by this share
ROUNDING = 1e-3  # logarithms and nats: what a log of four digits leaves of equal values
OF_ITS_OWN = 0.5  # of the scatter of either column itself: near a level of its own, any column is near a multiple


def find_relations(pair: Pair, columns: Sequence[ColumnDiff], resumes: Collection[int]) -> tuple[Relation, ...]:
    """The relations of the columns that differ, in their order; `resumes` are the first steps of what either run
    trained after a resume or a rollback."""
    relations: list[Relation] = []
    for column in columns:
        first = column.first_step
        if first is not None and (curve := pair.by_step(column.name)) is not None:
            relations += _latest(curve, sorted({first, *(step for step in resumes if step > first)}, reverse=True))
    return tuple(relations)


def _latest(curve: Curve, starts: Sequence[int]) -> list[Relation]:
    """The relation of a column from the latest of `starts` on at which it began, in a list; else none."""
    for start in starts:
        first = int(np.searchsorted(curve.step_a, start))
        for scatter in _scatters(curve, first):
            before = _figures(scatter.form, curve, _spaced(curve, 0, first))
            before = before[np.isfinite(before)]
            began = scatter.began_after(before) if before.size >= FEWEST_ROWS else scatter.binds(curve, first)
            if began:
                return [scatter.relation(curve, first, before)]
    return []


@dataclass(frozen=True)
class _Scatter:
    """How rows scatter about a relation: `low`, `middle` and `high` are figures of its form, see `_figures`."""

    form: Form
    low: float
    middle: float
    high: float

    @property
    def share(self) -> float:
        """The scatter as a share of the relation."""
        return (self.high - self.low) / abs(self.middle)

    def began_after(self, before: Values) -> bool:
        """Whether the rows `before` show none: equal values, or another factor."""
        level = float(np.median(before))
        return abs(level) <= STEADY * abs(self.middle) or (self.form == "factor" and not self.low <= level <= self.high)

    def binds(self, curve: Curve, first: int) -> bool:
        """Whether each column tells the other: their quotient varies less than they do. A distance tells nothing of two
        trainings that were never equal."""
        if self.form == "offset":
            return False
        values = (np.log(np.abs(column[_spaced(curve, first)])) for column in (curve.a, curve.b))
        widths = (np.diff(np.quantile(v[np.isfinite(v)], (ODD_SHARE, 1 - ODD_SHARE))) for v in values)
        own = min(float(width[0]) for width in widths)
        return self.high - self.low <= max(OF_ITS_OWN * own, ROUNDING)

    def relation(self, curve: Curve, first: int, before: Values) -> Relation:
        """The relation from row `first` on; `before` are its figures in the rows before that."""
        shown = math.exp if self.form == "factor" else float
        middle, low, high = shown(self.middle), shown(self.low), shown(self.high)
        was = shown(float(np.median(before))) if before.size else None
        steps = curve.step_a[first:]
        return Relation(curve.column, self.form, middle, low, high, steps.size, int(steps[0]), int(steps[-1]), was)


def _scatters(curve: Curve, first: int) -> list[_Scatter]:
    """The relations that hold from row `first` on, at most one of each form, the closest first."""
    column = describe(curve.column)
    in_nats = column is not None and column.unit.startswith("nats")
    scatters: list[_Scatter] = []
    forms: tuple[Form, ...] = ("factor", "offset") if in_nats else ("factor",)
    for form in forms:
        every = _figures(form, curve, _spaced(curve, first))
        figures = every[np.isfinite(every)]
        if figures.size < max(FEWEST_ROWS, (1 - ODD_SHARE) * every.size):
            continue
        low, middle, high = map(float, np.quantile(figures, (ODD_SHARE, 0.5, 1 - ODD_SHARE)))
        widest = min(SCATTER[form] * abs(middle), WIDEST if form == "factor" else math.inf)
        if abs(middle) > ROUNDING and high - low <= widest and _is_steady(figures, middle):
            scatters.append(_Scatter(form, low, middle, high))
    return sorted(scatters, key=lambda scatter: scatter.share)


def _is_steady(figures: Values, middle: float) -> bool:
    """Whether the figures are at the same level in the first third of the rows and in the last."""
    third = figures.size // 3
    return abs(float(np.median(figures[-third:]) - np.median(figures[:third]))) <= STEADY * abs(middle)


def _spaced(curve: Curve, first: int, last: int | None = None) -> slice:
    """At most about MOST_ROWS of the rows [first, last)."""
    end = curve.a.size if last is None else last
    return slice(first, end, max(1, (end - first) // MOST_ROWS))


def _figures(form: Form, curve: Curve, rows: slice) -> Values:
    """What a relation of this form is about in the given rows, float64[≤ n]: ln(b ÷ a), or b − a. NaN or infinite where
    the row contradicts any; left out where it says nothing, because a figure is not finite, or both are 0."""
    a, b = curve.a[rows], curve.b[rows]
    says = np.isfinite(a) & np.isfinite(b)
    return np.log(b / a)[says & ((a != 0) | (b != 0))] if form == "factor" else (b - a)[says]
