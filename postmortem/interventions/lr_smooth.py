"""Where the learning rate leaves its own trend, the trend goes on; data and state are those of the run."""

from __future__ import annotations

from typing import Any

import numpy as np

from postmortem.change import Change
from postmortem.errors import UsageError
from postmortem.interventions import Intervention, Scene
from postmortem.interventions._values import whole
from postmortem.program import Scalar

ROWS = 20  # rows before the step that the trend is read from


class LrSmooth(Intervention):
    """From step N on, the rate is the straight line through the 20 rows before it, kept above a tenth of its level."""

    name = "lr-smooth"
    usage = "N"
    about = "let the learning rate go on from step N as it went before"

    def __init__(self, change: Change) -> None:
        self._step = whole(change, self.usage)

    @property
    def text(self) -> str:
        return f"smooth the learning rate from step {self._step} on"

    def before_update(self, scene: Scene, step: int, optimizer: Any) -> dict[str, Scalar]:
        if step < self._step:
            return {}
        past = scene.recorded.series("lr", self._step)
        if past is None or len(past) < 2:
            raise UsageError(f"{self.text}: no learning rate was recorded before that step")
        steps, rates = past.step[-ROWS:].astype(np.float64), past.value[-ROWS:]
        slope, level = np.polyfit(steps - self._step, rates, 1)
        rate = float(max(level + slope * (step - self._step), 0.1 * float(rates[-1])))
        first = optimizer.param_groups[0]["lr"]
        for group in optimizer.param_groups:
            group["lr"] = rate * (group["lr"] / first if first else 1.0)
        return {"lr": rate}


INTERVENTION = LrSmooth
