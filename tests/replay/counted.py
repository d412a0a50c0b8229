"""What small trainings of these tests have in common: AdamW, and a place in their own steps and batches."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from postmortem.checkpoint import TrainState


class Counted:
    """State and place of a training. Its step says `self._took(batch.index)` once it is done."""

    def __init__(self, model: nn.Module, lr: float, **options: Any) -> None:
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=lr, **options)
        self._state = TrainState(model, self._optimizer, rng=False)
        self._done = self._next = 0

    @property
    def updates(self) -> int:
        return self._done

    @property
    def position(self) -> int:
        return self._next

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer]:
        return (self._optimizer,)

    def _took(self, index: int) -> None:
        self._done, self._next = self._done + 1, index + 1

    def state_dict(self) -> dict[str, Any]:
        return {**copy.deepcopy(self._state.state_dict()), "place": {"done": self._done, "next": self._next}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._state.load_state_dict({name: part for name, part in state.items() if name != "place"})
        place = state.get("place", {})
        self._done, self._next = place.get("done", self._done), place.get("next", self._next)
