"""One logged column as two arrays, the form in which detectors, panels and causes read it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem.text import plain, row_range

Steps = NDArray[np.int64]
"""int64[n]: steps, or other whole numbers of rows."""

Values = NDArray[np.float64]
"""float64[n]: values in the unit of their column."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The rows in which one column was logged.

    `step` is int64[n], strictly increasing; `value` is float64[n]. A row that did not log the column is absent, so NaN
    and Inf in `value` always mean a non-finite measurement, never "not logged".

    Raises:
        ValueError: `step` and `value` are not one-dimensional arrays of one length.
    """

    name: str
    step: Steps
    value: Values

    def __post_init__(self) -> None:
        if self.step.shape != self.value.shape or self.step.ndim != 1:
            raise ValueError(
                f"{self.name}: step {self.step.shape} and value {self.value.shape} must be equal 1-d shapes"
            )

    def __len__(self) -> int:
        return int(self.step.size)

    def __repr__(self) -> str:
        return f"<Series {plain(self.name, 80)}: {row_range(self.step)}>"

    def window(self, first: int, last: int) -> Series:
        """The rows with first <= step < last, as views (no copy)."""
        lo, hi = np.searchsorted(self.step, [first, last])
        return Series(self.name, self.step[lo:hi], self.value[lo:hi])

    def at(self, step: int) -> float | None:
        """The value logged at `step`, or None where the column was not logged there."""
        i = int(np.searchsorted(self.step, step))
        return float(self.value[i]) if i < self.step.size and self.step[i] == step else None

    def increments(self) -> Series:
        """The column with the count of each row: the increase, where it is a running total (it never falls, and exceeds
        1), else the column as it is. A total has no increase in its first row."""
        total = bool(self.value.size) and self.value.max() > 1 and bool((np.diff(self.value) >= 0).all())
        return Series(self.name, self.step, np.diff(self.value, prepend=self.value[0])) if total else self
