"""Ordinary batches stand in for suspect ones; every other batch keeps its step."""

from __future__ import annotations

from postmortem.change import Change, shown
from postmortem.interventions import Intervention, Scene, editable
from postmortem.interventions._values import numbers
from postmortem.program import Batch, Edit, Program


class Replace(Intervention):
    """The content of batches [A, B) is that of batches from C on; by default of some that the run never consumed: one
    that it had consumed before would be a repetition."""

    name = "replace"
    usage = "A:B[@C]"
    batches = True
    about = "consume the batches from C on in the place of [A, B)"

    def __init__(self, change: Change) -> None:
        other = numbers(change, self.usage, windows=1, least=0)
        ((self._first, self._last),) = change.windows
        self._other = other[0] if other else None

    @property
    def text(self) -> str:
        source = "others" if self._other is None else f"those from {self._other} on"
        return f"replace batches {shown((self._first, self._last))} by {source}"

    def batch(self, program: Program, scene: Scene, batch: Batch) -> Batch:
        if not self._first <= batch.index < self._last:
            return batch
        start = scene.unused_batch if self._other is None else self._other
        content = program.batch(start + batch.index - self._first)
        return editable(program, self.text).edited(content, Edit(index=batch.index))


INTERVENTION = Replace
