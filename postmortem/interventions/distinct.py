"""The loader does not repeat itself: batches that the run had consumed before, by their hash, are passed over."""

from __future__ import annotations

import numpy as np

from postmortem.change import Change, Window, merged, shown
from postmortem.interventions import Intervention, Scene
from postmortem.interventions._values import windows


class Distinct(Intervention):
    """Repetitions within A:B, or within all that is replayed, are passed over; the first of each is consumed."""

    name = "distinct"
    usage = "[A:B]"
    batches = True
    about = "pass over batches that repeat one of the 1,000 before them"

    def __init__(self, change: Change) -> None:
        self._within = merged(windows(change, self.usage))

    @property
    def text(self) -> str:
        where = " in " + ", ".join(map(shown, self._within)) if self._within else ""
        return f"pass over repeated batches{where}"

    def windows(self, scene: Scene) -> tuple[Window, ...]:
        repeated = scene.recorded.repeated(scene.from_step)
        if self._within:
            inside = [(repeated >= first) & (repeated < last) for first, last in self._within]
            repeated = repeated[np.logical_or.reduce(inside)]
        return tuple((index, index + 1) for index in repeated.tolist())


INTERVENTION = Distinct
