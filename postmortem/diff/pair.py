"""Matches the rows of two runs: by step, and by consumed batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from postmortem.run import Run
from postmortem.series import Series, Steps, Values

Rows: TypeAlias = "slice | NDArray[np.intp]"
Key: TypeAlias = Literal["batch_hash", "batch_index"]
_OCCURRENCE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that its multiples are all different


@dataclass(frozen=True, eq=False)
class Matched:
    """Matched rows: steps int64[n] of each run, in order of a."""

    by: Key
    a: Steps
    b: Steps


@dataclass(frozen=True, eq=False)
class Curve:
    """One column over matched rows: steps int64[n] and values float64[n] of each run."""

    column: str
    by: Literal["step", "batch"]
    step_a: Steps
    step_b: Steps
    a: Values
    b: Values

    @cached_property
    def gap(self) -> Values:
        """b − a; 0 where both have the same bits or are both NaN; NaN where one of them is not finite."""
        gap = self.b - self.a
        gap[same_bits(self.a, self.b)] = 0.0
        gap[np.isinf(gap)] = np.nan
        return gap


class Pair:
    """Two runs, and how their rows match. Only effective histories are matched."""

    def __init__(self, a: Run, b: Run) -> None:
        self.a, self.b = a, b

    @cached_property
    def steps(self) -> Steps:
        """int64[n], increasing: the steps of which both have a row."""
        rows, _ = in_both(self.a.row_steps, self.b.row_steps)
        return self.a.row_steps[rows]

    @property
    def runs(self) -> tuple[Run, Run]:
        return self.a, self.b

    @cached_property
    def related(self) -> bool:
        """Whether one run continues the other, according to the lineage in run.json."""
        return parent(self.a) == self.b.id or parent(self.b) == self.a.id

    def comparable(self, hashed: Literal["batch", "state", "state_local"]) -> bool:
        """Whether both runs used the same hash function, as far as run.json names it."""
        recorded = [run.manifest.raw.get("hashes") for run in self.runs]
        names = [functions.get(hashed) if isinstance(functions, dict) else None for functions in recorded]
        return None in names or names[0] == names[1]

    @cached_property
    def key(self) -> Key | None:
        """The column that identifies a batch: its hash, or its index where there is no hash."""
        if all("batch_hash" in run.columns for run in self.runs) and self.comparable("batch"):
            return "batch_hash"
        return "batch_index" if all("batch_index" in run.columns for run in self.runs) else None

    @cached_property
    def batches(self) -> Matched | None:
        """The rows of both runs that consumed the same batch for the same time (the first, the second, …)."""
        if self.key is None:
            return None
        (step_a, code_a), (step_b, code_b) = (_codes(run, self.key) for run in self.runs)
        if np.array_equal(code_a, code_b):
            return Matched(self.key, step_a, step_b)
        _, at_a, at_b = np.intersect1d(once(code_a), once(code_b), assume_unique=True, return_indices=True)
        order = np.argsort(at_a)
        return Matched(self.key, step_a[at_a[order]], step_b[at_b[order]])

    def by_step(self, column: str) -> Curve | None:
        """A numeric column at the steps at which both logged it; None where there are none."""
        a, b = (run.series(column) for run in self.runs)
        if a is None or b is None:
            return None
        rows_a, rows_b = in_both(a.step, b.step)
        step = a.step[rows_a]
        return Curve(column, "step", step, step, a.value[rows_a], b.value[rows_b]) if step.size else None

    def by_batch(self, column: str) -> Curve | None:
        """A numeric column at the batches that both runs consumed, in the order of consumption."""
        matched = self.batches
        a, b = (run.series(column) for run in self.runs)
        if matched is None or a is None or b is None:
            return None
        rows_a, logged_a = _rows_at(a, matched.a)
        rows_b, logged_b = _rows_at(b, matched.b)
        logged = logged_a & logged_b
        rows_a, rows_b = rows_a[logged], rows_b[logged]
        order = np.argsort(a.step[rows_a] + b.step[rows_b], kind="stable")
        i, j = rows_a[order], rows_b[order]
        return Curve(column, "batch", a.step[i], b.step[j], a.value[i], b.value[j]) if i.size else None


def parent(run: Run) -> str | None:
    """The id of the run that `run` continues, or None. No path is followed."""
    lineage = run.manifest.lineage or {}
    name = lineage.get("run", lineage.get("parent"))
    return name if isinstance(name, str) else None


def same_bits(a: Values, b: Values) -> NDArray[np.bool_]:
    """bool[n]: the same bits, or both NaN."""
    same = a.view(np.int64) == b.view(np.int64)
    return same if same.all() else same | (np.isnan(a) & np.isnan(b))


def in_both(a: Steps, b: Steps) -> tuple[Rows, Rows]:
    """Positions of the steps that two increasing arrays share, in each of them."""
    if a is b or np.array_equal(a, b):
        return slice(None), slice(None)
    _, rows_a, rows_b = np.intersect1d(a, b, assume_unique=True, return_indices=True)
    return rows_a, rows_b


def _rows_at(series: Series, step: Steps) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The positions of `step` in a series, and for which of them the series has a row."""
    rows = np.minimum(np.searchsorted(series.step, step), len(series) - 1)
    return rows, series.step[rows] == step


def _codes(run: Run, key: Key) -> tuple[Steps, NDArray[np.int64]]:
    """(step, code) int64[n] of every consumed batch: equal codes are equal batches.

    The code of a text is Python's own 64-bit hash: among a million batches, two different ones share a code with a
    chance of 3 in 10⁸, and such a mistake would affect one row of the figures.
    """
    if key == "batch_index":
        series = run.series(key)
        assert series is not None
        return series.step, series.value.view(np.int64)
    labels = run.labels(key)
    assert labels is not None
    return labels.step, np.fromiter(map(hash, labels.value), np.int64, len(labels))


def once(code: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A unique code for each (code, occurrence)."""
    order = np.argsort(code, kind="stable")
    ranked = code[order]
    first = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1])) if code.size else np.zeros(0, np.intp)
    occurrence = np.empty(code.size, np.uint64)
    occurrence[order] = np.arange(code.size) - np.repeat(first, np.diff(np.append(first, code.size)))
    return code.view(np.uint64) + occurrence * _OCCURRENCE
