"""Suspect batches meet another state: they change places with later or earlier ones."""

from __future__ import annotations

from postmortem.change import Change, shown
from postmortem.interventions import Intervention, Scene, editable
from postmortem.interventions._values import numbers, refused
from postmortem.program import Batch, Edit, Program


class Move(Intervention):
    """Batches [A, B) and those from C on change places, so that none is consumed twice."""

    name = "move"
    usage = "A:B@C"
    batches = True
    about = "let the batches [A, B) change places with those from C on"

    def __init__(self, change: Change) -> None:
        (self._other,) = numbers(change, self.usage, windows=1)
        ((self._first, self._last),) = change.windows
        if abs(self._other - self._first) < self._last - self._first:
            raise refused(change, f"{self.usage} with C outside of {shown((self._first, self._last))}")

    @property
    def text(self) -> str:
        return f"move batches {shown((self._first, self._last))} to {self._other}"

    def batch(self, program: Program, scene: Scene, batch: Batch) -> Batch:
        away = self._other - self._first
        if self._first <= batch.index < self._last:
            content = batch.index + away
        elif self._first <= batch.index - away < self._last:
            content = batch.index - away
        else:
            return batch
        return editable(program, self.text).edited(program.batch(content), Edit(index=batch.index))


INTERVENTION = Move
