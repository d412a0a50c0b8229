"""Clips the gradient at a given norm, in addition to what the program does."""

from __future__ import annotations

from typing import Any

from postmortem.change import Change
from postmortem.interventions import Intervention, ReplayContext
from postmortem.interventions._values import positive
from postmortem.program import Scalar
from postmortem.text import number


class Clip(Intervention):
    """Clips the L2 norm of the gradient, over all parameters of an optimizer, at a threshold."""

    name = "clip"
    usage = "NORM"
    summary = "clip the gradient norm at NORM"

    def __init__(self, change: Change) -> None:
        self._threshold = positive(change, self.usage)

    @property
    def text(self) -> str:
        return f"clip the gradient norm at {number(self._threshold)}"

    def before_update(self, context: ReplayContext, step: int, optimizer: Any) -> dict[str, Scalar]:
        import torch

        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._threshold))
        self.acted |= not norm <= self._threshold  # also where the norm is not finite
        return {"clip_threshold": self._threshold, "grad_norm_clipped": min(norm, self._threshold)}


INTERVENTION = Clip
