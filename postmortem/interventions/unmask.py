"""A batch whose every label is ignored gets them back: 0/0 becomes a number."""

from __future__ import annotations

from postmortem.change import Change, shown
from postmortem.interventions import Intervention, Scene, editable
from postmortem.interventions._values import window
from postmortem.program import Batch, Edit, Program


class Unmask(Intervention):
    """The labels of each batch of [A, B) in which none counts do count. One would do against the NaN, but the mean over
    a single token is so noisy that it can pass for a spike by itself."""

    name = "unmask"
    usage = "A:B"
    batches = True
    about = "let the labels count of each of the batches [A, B) in which none does"

    def __init__(self, change: Change) -> None:
        self._window = window(change, self.usage)

    @property
    def text(self) -> str:
        return f"unmask the labels of batches {shown(self._window)}, where none counts"

    def batch(self, program: Program, scene: Scene, batch: Batch) -> Batch:
        if not self._window[0] <= batch.index < self._window[1]:
            return batch
        return editable(program, self.text).edited(batch, Edit(unmask=True))


INTERVENTION = Unmask
