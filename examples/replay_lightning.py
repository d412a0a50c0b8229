"""A Lightning `Trainer`, recorded and then replayed by its own loop, with and without the batches that spoiled it.

    python examples/replay_lightning.py runs/lightning

Rows 320 to 335 of the data are garbage: batches 40 and 41, as they are read in order.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from postmortem.change import Change
from postmortem.frameworks import LightningLoop
from postmortem.frameworks.lightning.record import LightningCallback
from postmortem.replay.run_replay import replay
from postmortem.replay.spec import ReplaySpec

CONFIG = {"run": "", "seed": 7, "lr": 3e-2, "width": 32}
STEPS, GARBAGE = 160, range(320, 336)


class Rows(torch.utils.data.Dataset[Tensor]):
    """1280 rows of 16 token ids."""

    def __len__(self) -> int:
        return 1280

    def __getitem__(self, row: int) -> Tensor:
        draw = torch.Generator().manual_seed(row)
        if row in GARBAGE:
            return torch.randint(64, (16,), generator=draw)
        return (5 * torch.arange(16) + torch.randint(64, (1,), generator=draw)) % 64


class Small(LightningModule):
    """Predicts the next id, with dropout."""

    def __init__(self, lr: float, width: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Embedding(64, width), nn.Dropout(0.1), nn.Linear(width, 64))

    def training_step(self, ids: Tensor, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.layers(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])


def parts(config: Mapping[str, Any]) -> tuple[Trainer, Small, DataLoader[Tensor]]:
    """Trainer, module and loader of the training, recorded into `config["run"]`."""
    seed_everything(config["seed"], verbose=False)
    run = Path(config["run"])
    keep = ModelCheckpoint(run / "checkpoints", "{step}", every_n_train_steps=20, save_top_k=-1)
    record = LightningCallback(run, program="replay_lightning:build", config=config)
    trainer = Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        gradient_clip_val=1.0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[keep, record],
    )
    return trainer, Small(config["lr"], config["width"]), DataLoader(Rows(), batch_size=8)


def build(config: Mapping[str, Any]) -> LightningLoop:
    """The training, for replays."""
    return LightningLoop(*parts(config))


def main(run: Path) -> None:
    """Train, replay without changes, replay without the garbage."""
    torch.set_num_threads(1)
    trainer, module, loader = parts({**CONFIG, "run": str(run)})
    trainer.fit(module, loader)
    for name, changes in (("null", ()), ("skip", (Change("skip", ((40, 42),)),))):
        worst = 0.0

        def track_worst_loss(step: int, until: int, loss: float, recorded: float | None) -> None:
            nonlocal worst
            worst = max(worst, loss)

        spec = ReplaySpec(str(run), f"{run}-{name}", from_step=20, until=60, changes=changes, trusted=True)
        result = replay(spec, on_step=track_worst_loss)
        comparison = "every bit as recorded" if result.exact else f"differs from step {result.differences[0].step} on"
        print(f"{name}: {result.steps} steps from 20, {comparison}, highest loss {worst:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
