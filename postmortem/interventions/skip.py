"""Batches are passed over, as PaLM did around its spikes: the steps go on with the ones after them."""

from __future__ import annotations

from postmortem.change import Change, Window, merged, shown
from postmortem.interventions import Intervention, Scene
from postmortem.interventions._values import refused, windows


class Skip(Intervention):
    """Skip windows of batch indices."""

    name = "skip"
    usage = "A:B[,C:D]"
    batches = True
    about = "pass over the batches [A, B)"

    def __init__(self, change: Change) -> None:
        self._windows = merged(windows(change, self.usage))
        if not self._windows:
            raise refused(change, self.usage)

    @property
    def text(self) -> str:
        return "skip batches " + ", ".join(map(shown, self._windows))

    def windows(self, scene: Scene) -> tuple[Window, ...]:
        return self._windows


INTERVENTION = Skip
