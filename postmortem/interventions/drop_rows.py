"""Leaves out single samples of a batch: the named ones, or those whose own loss or gradient is not finite."""

from __future__ import annotations

import math

from postmortem.change import Change, format_window
from postmortem.errors import UsageError
from postmortem.interventions import BatchEditor, ReplayContext, as_editable
from postmortem.interventions._values import numbers
from postmortem.program import Batch, Edit, Program, measure

MOST_ROWS = 1_000_000  # of a batch


class DropRows(BatchEditor):
    """Leaves out the rows R of each batch in [A, B); without R, the rows whose own loss or gradient is not finite."""

    name = "drop-rows"
    usage = "A:B[@R,R]"
    batches = True
    summary = "leave out the rows R of the batches [A, B), or those that give NaN or Inf when computed alone"

    def __init__(self, change: Change) -> None:
        rows = numbers(change, self.usage, windows=1, least=0, most=MOST_ROWS)
        (self._window,) = change.windows
        self._rows = frozenset(rows) if rows else None

    @property
    def text(self) -> str:
        which = "rows that are not finite" if self._rows is None else f"rows {', '.join(map(str, sorted(self._rows)))}"
        return f"leave out {which} of batches {format_window(self._window)}"

    def batch(self, program: Program, context: ReplayContext, batch: Batch) -> Batch:
        if not self._window[0] <= batch.index < self._window[1]:
            return batch
        editable = as_editable(program, self.text)
        all_rows = frozenset(range(len(editable.labels(batch))))
        dropped = self._rows
        if dropped is None:
            alone = {
                row: measure(program, editable.edited(batch, Edit(without_rows=all_rows - {row}))) for row in all_rows
            }
            dropped = frozenset(
                row
                for row, measured in alone.items()
                if not all(math.isfinite(float(measured.metrics.get(name) or 0.0)) for name in ("loss", "grad_norm"))
            )
        if dropped >= all_rows:
            if self._rows is None:
                return batch  # every row is bad when computed alone, so no single row is to blame
            raise UsageError(f"{self.text}: batch {batch.index} has no other rows")
        return editable.edited(batch, Edit(without_rows=dropped)) if dropped else batch


INTERVENTION = DropRows
