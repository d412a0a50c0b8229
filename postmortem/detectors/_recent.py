"""The latest rows of one column, for live detectors that look back over a few of them."""

from __future__ import annotations

from bisect import bisect_left

from postmortem.detectors._model import as_float


class RecentRows:
    """Steps and finite values of the latest rows, oldest first; `dropped` rows came before them."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: list[float] = []
        self.dropped = 0

    def add(self, step: int, logged: object) -> float | None:
        """Append a row; its value, or None where it is no finite number or its step does not ascend."""
        value = as_float(logged)
        if value is None or value - value != 0.0 or (self.steps and step <= self.steps[-1]):
            return None
        self.steps.append(step)
        self.values.append(value)
        return value

    def drop_first(self, rows: int) -> None:
        """Drop the oldest `rows` rows."""
        del self.values[:rows], self.steps[:rows]
        self.dropped += rows

    def rewind(self, step: int) -> int:
        """Drop the rows from `step` on; how many rows are still here."""
        rows = bisect_left(self.steps, step)
        del self.values[rows:], self.steps[rows:]
        return rows
