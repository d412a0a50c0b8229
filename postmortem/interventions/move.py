"""Moves suspect batches to another state: they swap places with later or earlier batches."""

from __future__ import annotations

from collections.abc import Sequence

from postmortem.change import Change, Window, format_window
from postmortem.interventions import Intervention, ReplayContext, as_editable, outside
from postmortem.interventions._values import numbers, refused
from postmortem.program import Batch, Edit, Program


class Move(Intervention):
    """Batches [A, B) and as many batches from C on swap places, so that no batch is consumed twice."""

    name = "move"
    usage = "A:B@C"
    batches = True
    summary = "swap the batches [A, B) with those from C on"

    def __init__(self, change: Change) -> None:
        (self._destination,) = numbers(change, self.usage, windows=1)
        ((self._first, self._last),) = change.windows
        if abs(self._destination - self._first) < self._last - self._first:
            raise refused(change, f"{self.usage} with C outside of {format_window((self._first, self._last))}")

    @property
    def text(self) -> str:
        return f"move batches {format_window((self._first, self._last))} to {self._destination}"

    def idle(self, context: ReplayContext, consumed: Sequence[Window]) -> str:
        length = self._last - self._first
        return outside(((self._first, self._last), (self._destination, self._destination + length)), consumed)

    def batch(self, program: Program, context: ReplayContext, batch: Batch) -> Batch:
        distance = self._destination - self._first
        if self._first <= batch.index < self._last:
            content = batch.index + distance
        elif self._first <= batch.index - distance < self._last:
            content = batch.index - distance
        else:
            return batch
        return as_editable(program, self.text).edited(program.batch(content), Edit(index=batch.index))


INTERVENTION = Move
