"""Single samples of a batch are left out: those named, or those that give no finite number by themselves."""

from __future__ import annotations

import math

from postmortem.change import Change, shown
from postmortem.errors import UsageError
from postmortem.interventions import Intervention, Scene, editable
from postmortem.interventions._values import numbers
from postmortem.program import Batch, Edit, Program, measure

MOST_ROWS = 1_000_000  # of a batch


class DropRows(Intervention):
    """Rows R of each batch of [A, B) are left out; without R, those whose own loss or gradient is not finite."""

    name = "drop-rows"
    usage = "A:B[@R,R]"
    batches = True
    about = "leave out the rows R of the batches [A, B), or those that give NaN or Inf by themselves"

    def __init__(self, change: Change) -> None:
        rows = numbers(change, self.usage, windows=1, least=0, most=MOST_ROWS)
        (self._window,) = change.windows
        self._rows = frozenset(rows) if rows else None

    @property
    def text(self) -> str:
        which = "rows that are not finite" if self._rows is None else f"rows {', '.join(map(str, sorted(self._rows)))}"
        return f"leave out {which} of batches {shown(self._window)}"

    def batch(self, program: Program, scene: Scene, batch: Batch) -> Batch:
        if not self._window[0] <= batch.index < self._window[1]:
            return batch
        able = editable(program, self.text)
        every = frozenset(range(len(able.labels(batch))))
        dropped = self._rows
        if dropped is None:
            alone = {row: measure(program, able.edited(batch, Edit(without_rows=every - {row}))) for row in every}
            dropped = frozenset(
                row
                for row, found in alone.items()
                if not all(math.isfinite(float(found.metrics.get(name) or 0.0)) for name in ("loss", "grad_norm"))
            )
        if dropped >= every:
            if self._rows is None:
                return batch  # each row is bad by itself: none of them did it alone
            raise UsageError(f"{self.text}: batch {batch.index} has no other rows")
        return able.edited(batch, Edit(without_rows=dropped)) if dropped else batch


INTERVENTION = DropRows
