"""A complete small training that is recorded, watched, checkpointed and resumable. Run it, kill it, run it again.

    python examples/plain_loop.py runs/plain --steps 400
    postmortem draft runs/plain

The model predicts the next token of a noisy arithmetic sequence. It trains in a second on one core, and its loss falls.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from postmortem.checkpoint import Checkpointer, Policy, TrainState
from postmortem.record import Recorder

SEED, VOCAB, BATCH, CONTEXT = 1234, 64, 16, 32
CONFIG = {"seed": SEED, "width": 64, "layers": 2, "lr": 3e-3, "clip": 1.0}
POLICY = Policy(rollback_every=20, recovery_every=100, best_k=2)
EVAL_EVERY = 50  # steps


class Block(nn.Module):
    """One residual layer over vectors of shape (…, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class Model(nn.Module):
    """Logits (batch, context, vocab) of the next token from ids (batch, context)."""

    def __init__(self, vocab: int, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.head = nn.Linear(width, vocab, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(ids)))


def batch(index: int) -> Tensor:
    """Token ids of the batch at `index`, shape (batch, context + 1). They depend on the index alone, so that a resume,
    or a replay that skips batches, gets the same data without drawing the batches before.
    """
    draw = torch.Generator().manual_seed(SEED * 1_000_003 + index)
    start = torch.randint(VOCAB, (BATCH, 1), generator=draw)
    noise = torch.rand((BATCH, CONTEXT + 1), generator=draw) < 0.1
    return (start + 5 * torch.arange(CONTEXT + 1) + noise.long()) % VOCAB


def forward(model: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the next tokens, and their mean cross-entropy in nats."""
    logits = model(ids[:, :-1])
    return logits, nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def train(run: Path, steps: int) -> None:
    """Train until `steps` updates are done. If there is a run in `run`, continue it."""
    torch.manual_seed(SEED)
    model = Model(VOCAB, width=int(CONFIG["width"]), layers=int(CONFIG["layers"]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=CONFIG["lr"])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))
    state = TrainState(model, optimizer, scheduler)
    held_out = batch(10**9)

    with Recorder(run, config=CONFIG) as rec, Checkpointer(rec, state, POLICY) as checkpoints:
        watch = rec.watch(model, optimizer)
        resumed = checkpoints.resume()
        if resumed:
            print(resumed.summary())
        for step in range(resumed.step if resumed else 0, steps):
            ids = batch(step)
            rec.batch(step, ids, index=step)
            logits, loss = forward(model, ids)
            watch.logits(logits, ids[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), CONFIG["clip"])
            lr = scheduler.get_last_lr()[0]
            optimizer.step()
            scheduler.step()
            rec.log(step, loss=loss, grad_norm=grad_norm, lr=lr, clip_threshold=CONFIG["clip"])
            checkpoints.maybe_save(step + 1)
            if (step + 1) % EVAL_EVERY == 0:
                with torch.no_grad():
                    eval_loss = float(forward(model, held_out)[1])
                rec.log(step, eval_loss=eval_loss)
                checkpoints.best(step + 1, eval_loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="directory of the run")
    parser.add_argument("--steps", type=int, default=400, help="updates to reach (default 400)")
    arguments = parser.parse_args()
    train(arguments.run, arguments.steps)


if __name__ == "__main__":
    main()
