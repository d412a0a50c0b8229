"""Batches are passed over, as PaLM did around its spikes: the steps go on with the ones after them."""

from __future__ import annotations

from postmortem.program import SkipWindow
from postmortem.replay.interventions import Intervention, Scene
from postmortem.replay.interventions._values import shown, windows


class Skip(Intervention):
    """Skip windows of batch indices."""

    name = "skip"
    usage = "A:B[,C:D]"
    about = "pass over the batches [A, B)"

    def __init__(self, value: str) -> None:
        self._windows = windows(self.name, value)

    @property
    def text(self) -> str:
        return "skip batches " + ", ".join(map(shown, self._windows))

    def windows(self, scene: Scene) -> tuple[SkipWindow, ...]:
        return self._windows


INTERVENTION = Skip
