"""Changes the last bit of random parameters: a meaningless change, whose effect on the loss measures the noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from postmortem.change import Change
from postmortem.interventions import Intervention, ReplayContext, model_state
from postmortem.interventions._values import whole
from postmortem.program import Program


class Noise(Intervention):
    """Every floating-point parameter moves to the next larger number or stays, at random with a given seed."""

    name = "noise"
    usage = "SEED"
    summary = "move parameters by one unit in the last place: the smallest possible placebo"

    def __init__(self, change: Change) -> None:
        self._seed = whole(change, self.usage)

    @property
    def text(self) -> str:
        return f"last-bit noise of the parameters, seed {self._seed}"

    def begin(self, program: Program, context: ReplayContext) -> None:
        import torch
        from torch.distributed.tensor import DTensor

        generator = torch.Generator().manual_seed(self._seed)

        def with_noise(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {key: with_noise(inner) for key, inner in cast(Mapping[str, Any], value).items()}
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                return value
            local = value.to_local() if isinstance(value, DTensor) else value
            coin = torch.rand(local.shape, generator=generator) < 0.5
            up = torch.nextafter(local, torch.full_like(local, torch.inf))
            local.copy_(torch.where(coin.to(local.device) & local.isfinite(), up, local))
            return value

        program.load_state_dict({"model": with_noise(model_state(program, self.text))})


INTERVENTION = Noise
