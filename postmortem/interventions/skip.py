"""Skips batches, as PaLM did around its loss spikes: the next steps consume the batches after them."""

from __future__ import annotations

from collections.abc import Sequence

from postmortem.change import Change, Window, format_window, merge_windows
from postmortem.interventions import Intervention, ReplayContext, outside
from postmortem.interventions._values import refused, windows


class Skip(Intervention):
    """Skips every batch in the given windows of batch indices."""

    name = "skip"
    usage = "A:B[,C:D]"
    batches = True
    summary = "skip the batches [A, B)"

    def __init__(self, change: Change) -> None:
        self._windows = merge_windows(windows(change, self.usage))
        if not self._windows:
            raise refused(change, self.usage)

    @property
    def text(self) -> str:
        return "skip batches " + ", ".join(map(format_window, self._windows))

    def idle(self, context: ReplayContext, consumed: Sequence[Window]) -> str:
        return outside(self._windows, consumed)

    def windows(self, context: ReplayContext) -> tuple[Window, ...]:
        return self._windows


INTERVENTION = Skip
