"""Sets Adam's β2, so that the second moment v follows the gradient faster or slower."""

from __future__ import annotations

from typing import Any

from postmortem.change import Change
from postmortem.errors import UsageError
from postmortem.interventions import Intervention, ReplayContext
from postmortem.interventions._values import positive, refused
from postmortem.program import Scalar
from postmortem.text import number


class Beta2(Intervention):
    """Sets β2 of every parameter group."""

    name = "beta2"
    usage = "VALUE"
    summary = "use VALUE as Adam's beta2"

    def __init__(self, change: Change) -> None:
        self._beta2 = positive(change, self.usage)
        if self._beta2 >= 1:
            raise refused(change, f"{self.usage}, a number below 1")

    @property
    def text(self) -> str:
        return f"beta2 = {number(self._beta2)}"

    def before_update(self, context: ReplayContext, step: int, optimizer: Any) -> dict[str, Scalar]:
        for group in optimizer.param_groups:
            if "betas" not in group:
                raise UsageError(f"{self.text}: {type(optimizer).__name__} has no betas")
            self.acted |= group["betas"][1] != self._beta2
            group["betas"] = (group["betas"][0], self._beta2)
        return {}


INTERVENTION = Beta2
