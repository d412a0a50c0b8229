"""A small training, and a journal that only remembers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from postmortem.checkpoint import Checkpointer, TrainState


class Notes:
    """A `Journal` in memory."""

    def __init__(self, path: Path, rank: int = 0) -> None:
        self.path, self.rank = path, rank
        self.events: list[tuple[str, int | None, dict[str, Any]]] = []
        path.mkdir(parents=True, exist_ok=True)

    def flush(self) -> None:
        self.flushed = len(self.events)

    def state_hashes(self, tensors: Any, /) -> dict[str, str]:
        return {"all": ",".join(sorted(tensors))}

    def event(self, event: str, step: int | None = None, **keys: Any) -> None:
        self.events.append((event, step, keys))

    def names(self) -> list[str]:
        return [event for event, _, _ in self.events]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [{"step": step, **keys} for event, step, keys in self.events if event == name]


class Numbers:
    """A loader: numbers batches and draws them from a generator of its own."""

    def __init__(self) -> None:
        self.next, self.generator = 0, torch.Generator().manual_seed(5)

    def batch(self) -> Tensor:
        self.next += 1
        return torch.randn(8, 4, generator=self.generator)

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.next = int(state["next"])
        self.generator.set_state(state["generator"])


class Training:
    """Model with dropout, AdamW in two groups, cosine schedule, loader: everything a resume can forget."""

    def __init__(
        self,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        lr: float = 1e-2,
        decay: float = 0.1,
        prepare: Callable[[nn.Sequential], Any] = lambda model: None,
    ) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1))
        prepare(self.model)
        self.extra = torch.Generator().manual_seed(9)
        self.loader = Numbers()
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 40)

    def state(self, **objects: Any) -> TrainState:
        return TrainState(self.model, self.optimizer, self.scheduler, loader=self.loader, extra=self.extra, **objects)

    def step(self) -> float:
        noise = 0.01 * torch.randn(8, 1, generator=self.extra)
        loss = (self.model(self.loader.batch()) - 1 + noise).pow(2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return float(loss.detach())

    def run(self, first: int, until: int, saves: Checkpointer | None = None) -> list[str]:
        """Losses, bit for bit, of the steps [first, until)."""
        losses: list[str] = []
        for step in range(first, until):
            losses.append(self.step().hex())
            if saves is not None:
                saves.maybe_save(step + 1)
        return losses


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal in type, dtype and every bit."""
    if isinstance(a, Tensor):
        bits = isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return bits and a.contiguous().view(-1).view(torch.uint8).equal(b.contiguous().view(-1).view(torch.uint8))
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return a.hex() == b.hex()
    return bool((a == b).all()) if hasattr(a, "dtype") else a == b
