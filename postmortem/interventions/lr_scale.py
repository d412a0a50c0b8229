"""Multiplies the learning rate of every update by a factor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from postmortem.change import Change, Window
from postmortem.interventions import Intervention, ReplayContext
from postmortem.interventions._values import positive
from postmortem.program import Scalar
from postmortem.text import number


class LrScale(Intervention):
    """Scales the rates for the update. They are set back after it, so that a scheduler continues from its own rate."""

    name = "lr-scale"
    usage = "FACTOR"
    summary = "multiply the learning rate by FACTOR"

    def __init__(self, change: Change) -> None:
        self._factor = positive(change, self.usage)

    @property
    def text(self) -> str:
        return f"learning rate × {number(self._factor)}"

    def idle(self, context: ReplayContext, consumed: Sequence[Window]) -> str:
        return "a factor of 1 keeps every rate" if self._factor == 1 else ""

    def before_update(self, context: ReplayContext, step: int, optimizer: Any) -> dict[str, Scalar]:
        self.acted = self._factor != 1
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * self._factor
        return {"lr": float(optimizer.param_groups[0]["lr"])}


INTERVENTION = LrScale
