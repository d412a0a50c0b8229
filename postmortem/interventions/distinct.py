"""Skips repeated batches: those whose hash the run recorded before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from postmortem.change import Change, Window, format_window, merge_windows, overlap
from postmortem.interventions import Intervention, ReplayContext, outside
from postmortem.interventions._values import windows


class Distinct(Intervention):
    """Skips repetitions in [A, B), or in all replayed steps. The first occurrence of each batch is consumed."""

    name = "distinct"
    usage = "[A:B]"
    batches = True
    summary = "skip batches that repeat one of the 1,000 before them"

    def __init__(self, change: Change) -> None:
        self._within = merge_windows(windows(change, self.usage))

    @property
    def text(self) -> str:
        where = " in " + ", ".join(map(format_window, self._within)) if self._within else ""
        return f"skip repeated batches{where}"

    def idle(self, context: ReplayContext, consumed: Sequence[Window]) -> str:
        if self._within and (reason := outside(self._within, consumed)):
            return reason
        return "" if overlap(self.windows(context), consumed) else "the run recorded no repetition among them"

    def windows(self, context: ReplayContext) -> tuple[Window, ...]:
        repeated = context.recorded.repeated_batches(context.from_step)
        if self._within:
            inside = [(repeated >= first) & (repeated < last) for first, last in self._within]
            repeated = repeated[np.logical_or.reduce(inside)]
        return tuple((index, index + 1) for index in repeated.tolist())


INTERVENTION = Distinct
