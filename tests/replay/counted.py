"""What the small trainings of these tests share: their step and batch, and AdamW."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from postmortem.checkpoint import TrainState


class Counter:
    """Counts the steps of a training and its position in the data. Each step ends with `self._count(batch.index)`."""

    def __init__(self) -> None:
        self._done = self._next = 0

    @property
    def updates(self) -> int:
        return self._done

    @property
    def position(self) -> int:
        return self._next

    def _count(self, index: int) -> None:
        self._done, self._next = self._done + 1, index + 1


class Counted(Counter):
    """A training with AdamW, whose state contains its step and position."""

    def __init__(self, model: nn.Module, lr: float, **options: Any) -> None:
        super().__init__()
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=lr, **options)
        self._state = TrainState(model, self._optimizer, rng=False)

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer]:
        return (self._optimizer,)

    def state_dict(self) -> dict[str, Any]:
        return {**copy.deepcopy(self._state.state_dict()), "place": {"done": self._done, "next": self._next}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._state.load_state_dict({name: part for name, part in state.items() if name != "place"})
        place = state.get("place", {})
        self._done, self._next = place.get("done", self._done), place.get("next", self._next)
