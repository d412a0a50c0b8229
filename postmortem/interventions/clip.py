"""The gradient is clipped, harder than the program does."""

from __future__ import annotations

from typing import Any

from postmortem.change import Change
from postmortem.interventions import Intervention, Scene
from postmortem.interventions._values import positive
from postmortem.program import Scalar
from postmortem.text import number


class Clip(Intervention):
    """The gradient's L2 norm over all parameters of an optimizer is clipped at a threshold."""

    name = "clip"
    usage = "NORM"
    about = "clip the gradient norm at NORM"

    def __init__(self, change: Change) -> None:
        self._threshold = positive(change, self.usage)

    @property
    def text(self) -> str:
        return f"clip the gradient norm at {number(self._threshold)}"

    def before_update(self, scene: Scene, step: int, optimizer: Any) -> dict[str, Scalar]:
        import torch

        held = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(held, self._threshold))
        return {"clip_threshold": self._threshold, "grad_norm_clipped": min(norm, self._threshold)}


INTERVENTION = Clip
