"""A change of no meaning: the last bit of the parameters, by a seeded coin. What it does to the loss is the noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from postmortem.change import Change
from postmortem.interventions import Intervention, Scene, parameters
from postmortem.interventions._values import whole
from postmortem.program import Program


class Noise(Intervention):
    """Every floating-point parameter moves to its upper neighbour or stays, by a generator of the seed."""

    name = "noise"
    usage = "SEED"
    about = "move parameters by one unit in the last place: the placebo of placebos"

    def __init__(self, change: Change) -> None:
        self._seed = whole(change, self.usage)

    @property
    def text(self) -> str:
        return f"last-bit noise of the parameters, seed {self._seed}"

    def begin(self, program: Program, scene: Scene) -> None:
        import torch
        from torch.distributed.tensor import DTensor

        generator = torch.Generator().manual_seed(self._seed)

        def stirred(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {key: stirred(inner) for key, inner in cast(Mapping[str, Any], value).items()}
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                return value
            local = value.to_local() if isinstance(value, DTensor) else value
            coin = torch.rand(local.shape, generator=generator) < 0.5
            up = torch.nextafter(local, torch.full_like(local, torch.inf))
            local.copy_(torch.where(coin.to(local.device) & local.isfinite(), up, local))
            return value

        program.load_state_dict({"model": stirred(parameters(program, self.text))})


INTERVENTION = Noise
