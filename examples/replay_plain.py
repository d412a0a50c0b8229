"""A loop of one's own, recorded and then replayed: exactly as it was, and without the batches that spoiled it.

    python examples/replay_plain.py runs/plain

Four batches of the data are garbage. The loop knows nothing of replays; `build` says the same training to
`postmortem.frameworks.TorchLoop`, and the run names it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from postmortem.change import Change
from postmortem.checkpoint import Checkpointer, Policy, TrainState
from postmortem.frameworks import TorchLoop
from postmortem.record import Recorder
from postmortem.replay.run_replay import replay
from postmortem.replay.spec import ReplaySpec

CONFIG = {"seed": 7, "lr": 3e-3, "vocab": 64, "width": 32}
STEPS, GARBAGE = 120, range(80, 84)


def batch(index: int) -> Tensor:
    """Token ids of shape (16, 33), a function of the index alone."""
    draw = torch.Generator().manual_seed(index)
    if index in GARBAGE:
        return torch.randint(CONFIG["vocab"], (16, 33), generator=draw)
    start = torch.randint(CONFIG["vocab"], (16, 1), generator=draw)
    return (start + 5 * torch.arange(33)) % CONFIG["vocab"]


def loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, in nats."""
    return nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def parts(config: Mapping[str, Any]) -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Model, optimizer and scheduler; there is dropout, so that the generators matter."""
    torch.manual_seed(config["seed"])
    vocab, width = config["vocab"], config["width"]
    model = nn.Sequential(nn.Embedding(vocab, width), nn.Dropout(0.1), nn.ReLU(), nn.Linear(width, vocab))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
    return model, optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20)


def build(config: Mapping[str, Any]) -> TorchLoop:
    """The training, for replays."""
    model, optimizer, scheduler = parts(config)
    return TorchLoop(model, optimizer, batch=batch, loss=loss, scheduler=scheduler, clip=1.0)


def train(run: Path) -> None:
    """The loop as it always was, recorded and checkpointed."""
    torch.set_num_threads(1)
    model, optimizer, scheduler = parts(CONFIG)
    state, policy = TrainState(model, optimizer, scheduler), Policy(rollback_every=40, recovery_every=0)
    named = {"program": "replay_plain:build"}
    with Recorder(run, config=CONFIG, manifest=named) as rec, Checkpointer(rec, state, policy) as checkpoints:
        for step in range(STEPS):
            ids = batch(step)
            rec.batch(step, ids, index=step)
            optimizer.zero_grad()
            value = loss(model, ids)
            value.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            rate = scheduler.get_last_lr()[0]
            optimizer.step()
            scheduler.step()
            rec.log(step, loss=value, grad_norm=norm, lr=rate, clip_threshold=1.0)
            checkpoints.maybe_save(step + 1)


def main(run: Path) -> None:
    """Train, replay without changes, replay without the garbage."""
    train(run)
    for name, changes in (("null", ()), ("skip", (Change("skip", ((80, 84),)),))):
        worst = 0.0

        def track_worst_loss(step: int, until: int, loss: float, recorded: float | None) -> None:
            nonlocal worst
            worst = max(worst, loss)

        spec = ReplaySpec(str(run), f"{run}-{name}", from_step=40, until=STEPS, changes=changes, trusted=True)
        result = replay(spec, on_step=track_worst_loss)
        comparison = "every bit as recorded" if result.exact else f"differs from step {result.differences[0].step} on"
        print(f"{name}: {result.steps} steps from 40, {comparison}, highest loss {worst:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
