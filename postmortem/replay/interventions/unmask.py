"""A batch whose every label is ignored gets one of them back: 0/0 becomes a number."""

from __future__ import annotations

from postmortem.program import Batch, Edit, Program
from postmortem.replay.interventions import Intervention, Scene, editable
from postmortem.replay.interventions._values import shown, window


class Unmask(Intervention):
    """One label of each batch of [A, B) that has none counts again."""

    name = "unmask"
    usage = "A:B"
    about = "let one label count in each of the batches [A, B) that has none"

    def __init__(self, value: str) -> None:
        self._window = window(self.name, value)

    @property
    def text(self) -> str:
        return f"unmask one label of batches {shown(self._window)}"

    def batch(self, program: Program, scene: Scene, batch: Batch) -> Batch:
        if not self._window[0] <= batch.index < self._window[1]:
            return batch
        return editable(program, self.text).edited(batch, Edit(unmask=True))


INTERVENTION = Unmask
