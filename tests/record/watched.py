"""A small model, a sink and a loop for the tests of the watch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from postmortem.record.cells import WATCHED_ARRAYS
from postmortem.record.watch import finish_watched_row

VOCABULARY, WIDTH = 11, 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return x + self.mlp(self.norm(x)), "weights"


class GPT(nn.Module):
    """Returns what Hugging Face models do: an object with logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wte = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.ln_f = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        x = self.wte(ids)
        for block in self.blocks:
            x, _ = block(x)
        logits = self.lm_head(self.ln_f(x))
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        return SimpleNamespace(logits=logits, loss=loss)


class Sink:
    """A recorder that keeps its rows."""

    def __init__(self) -> None:
        self.something_moved_recently = False
        self.logged: int | None = None
        self.rows: dict[int, dict[str, Any]] = {}
        self.facts: dict[str, Any] = {}
        self._pending: dict[str, Any] = {}

    def describe(self, facts: Mapping[str, Any]) -> None:
        self.facts = {**facts, **self.facts}

    def attach(self, values: Mapping[str, Any]) -> None:
        self._pending.update(values)

    def log(self, step: int, **columns: Any) -> None:
        taken, self._pending = {**self._pending, **columns}, {}
        row = {name: _read(name, value) for name, value in taken.items()}
        self.rows[step] = finish_watched_row({name: value for name, value in row.items() if value is not None})
        self.logged = step


def _read(name: str, value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.numpy() if name in WATCHED_ARRAYS else value.tolist()


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    ids = torch.randint(0, VOCABULARY, (4, 7), generator=torch.Generator().manual_seed(step))
    labels = ids.roll(-1, 1)
    labels[:, -1] = -100
    return ids, labels


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    sink: Any,
    steps: range,
    before_log: Callable[[int], None] = lambda step: None,
) -> None:
    for step in steps:
        ids, labels = batch_of(step)
        optimizer.zero_grad()
        loss = model(ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        before_log(step)
        sink.log(step, loss=loss.detach())


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
