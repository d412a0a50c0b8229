"""Small trainings under the program contract, complete or forgetting one piece of state when they save."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from postmortem.program import Batch, Measured
from tests.replay.counted import Counter


@dataclass(frozen=True)
class Numbers:
    """A batch: inputs float32[16, 8]."""

    index: int
    x: Tensor


class Training(Counter):
    """A regression with dropout (torch's global generator), noise (a generator of its own), AdamW and a schedule."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(3)
        random.seed(3)
        self._forgets = config.get("forgets", "")
        self._model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-2, betas=(0.8, 0.9))
        self._scheduler = torch.optim.lr_scheduler.LambdaLR(self._optimizer, lambda step: 1 / (1 + step))
        self._shuffle = random.Random(5)
        self._drifts = bool(config.get("drifts"))

    def batch(self, index: int) -> Numbers:
        return Numbers(index, torch.randn(16, 8, generator=torch.Generator().manual_seed(index)))

    def step(self, batch: Batch) -> Measured:
        assert isinstance(batch, Numbers)
        x = batch.x + self._shuffle.random() * 0.01
        if self._drifts:
            x = x + float(torch.seed() % 7)  # a generator seeded by the clock: no two runs are alike
        loss = (self._model(x) - batch.x.sum(1, keepdim=True)).square().mean()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._scheduler.step()
        self._count(batch.index)
        return Measured({"loss": float(loss.detach())}, {"batch_hash": str(batch.index)})

    def state_dict(self) -> dict[str, Any]:
        optimizer = self._optimizer.state_dict()
        state: dict[str, Any] = {
            "model": {name: tensor.clone() for name, tensor in self._model.state_dict().items()},
            "moments": {str(i): {k: v.clone() for k, v in state.items()} for i, state in optimizer["state"].items()},
            "betas": list(self._optimizer.param_groups[0]["betas"]),
            "rate": self._optimizer.param_groups[0]["lr"],
            "scheduler": self._scheduler.state_dict(),
            "rng": {"torch": torch.get_rng_state(), "shuffle": repr(self._shuffle.getstate())},
            "loader": {"next": self._next},
            "updates": self._done,
        }
        state.pop(self._forgets, None)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._model.load_state_dict(state["model"])
        if "moments" in state:
            groups = self._optimizer.state_dict()["param_groups"]
            moments = {int(i): one for i, one in state["moments"].items()}
            self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if "betas" in state:
            self._optimizer.param_groups[0]["betas"] = tuple(state["betas"])
        self._optimizer.param_groups[0]["lr"] = state["rate"]
        if "scheduler" in state:
            self._scheduler.load_state_dict(dict(state["scheduler"]))
        if "rng" in state:
            torch.set_rng_state(state["rng"]["torch"])
            self._shuffle.setstate(eval(state["rng"]["shuffle"]))
        self._next = state.get("loader", {}).get("next", 0)
        self._done = state["updates"]


def build(config: Mapping[str, Any]) -> Training:
    """A fresh training; `forgets` names a section that its state dict lacks."""
    return Training(config)


class Rewired(Training):
    """Its betas are changed by hand during the training, and its state dict does not know."""

    def step(self, batch: Batch) -> Measured:
        if self._done == 4:
            self._optimizer.param_groups[0]["betas"] = (0.5, 0.99)
        return super().step(batch)


def build_rewired(config: Mapping[str, Any]) -> Rewired:
    """A training whose betas are part of what was changed on the way."""
    return Rewired({**config, "forgets": "betas"})


class Averaging(Training):
    """It averages weights for an evaluation at its end, and its state dict does not know."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.averaged = copy.deepcopy(self._model[3])

    def step(self, batch: Batch) -> Measured:
        measured = super().step(batch)
        with torch.no_grad():
            for mean, now in zip(self.averaged.parameters(), self._model[3].parameters(), strict=True):
                mean.lerp_(now, 0.1)
        return measured


def build_averaging(config: Mapping[str, Any]) -> Averaging:
    """A training that forgets what no loss depends on."""
    return Averaging(config)


def build_broken(config: Mapping[str, Any]) -> Training:
    """A factory that fails."""
    raise RuntimeError("the dataset is not there")
