"""Continues the recorded trend of the learning rate from a given step on; data and state stay those of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from postmortem.change import Change, Window
from postmortem.errors import UsageError
from postmortem.interventions import Intervention, ReplayContext
from postmortem.interventions._values import whole
from postmortem.program import Scalar

ROWS = 20  # rows before the step, from which the trend is read


class LrSmooth(Intervention):
    """From step N on, the rate follows the straight line fitted to the 20 rows before it, and stays above a tenth of
    the last rate."""

    name = "lr-smooth"
    usage = "N"
    summary = "from step N on, continue the trend that the learning rate had before"

    def __init__(self, change: Change) -> None:
        self._step = whole(change, self.usage)

    @property
    def text(self) -> str:
        return f"smooth the learning rate from step {self._step} on"

    def idle(self, context: ReplayContext, consumed: Sequence[Window]) -> str:
        return "" if self._step < context.until else "the replay ends before that step"

    def before_update(self, context: ReplayContext, step: int, optimizer: Any) -> dict[str, Scalar]:
        if step < self._step:
            return {}
        past = context.recorded.series("lr", self._step)
        if past is None or len(past) < 2:
            raise UsageError(f"{self.text}: the run recorded no learning rate before that step")
        steps, rates = past.step[-ROWS:].astype(np.float64), past.value[-ROWS:]
        slope, level = np.polyfit(steps - self._step, rates, 1)
        rate = float(max(level + slope * (step - self._step), 0.1 * float(rates[-1])))
        first = optimizer.param_groups[0]["lr"]
        self.acted |= rate != first
        for group in optimizer.param_groups:
            group["lr"] = rate * (group["lr"] / first if first else 1.0)
        return {"lr": rate}


INTERVENTION = LrSmooth
