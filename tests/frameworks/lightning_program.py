"""A Lightning training under the contract: shuffled, with dropout, accumulation, validations and several epochs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from postmortem.frameworks import LightningLoop
from postmortem.frameworks.lightning.record import LightningCallback

CONFIG: dict[str, Any] = {"run": "", "shuffle": "own", "data": "loader", "interval": "epoch", "salt": 0, "trainer": {}}


class Tiny(LightningModule):
    """Predicts the next of five ids; the rate falls by the epoch or by the step."""

    def __init__(self, interval: str) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Embedding(32, 8), nn.Dropout(0.2), nn.BatchNorm1d(4), nn.Linear(8, 32))

    def loss(self, ids: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.layers(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.hparams["interval"]}}


def make_loader(config: Mapping[str, Any]) -> DataLoader[Tensor]:
    """Twelve batches of two rows."""
    ids: Any = torch.randint(0, 32, (24, 5), generator=torch.Generator().manual_seed(config["salt"]))
    if config["shuffle"] == "no":
        return DataLoader(ids, 2)
    own = torch.Generator().manual_seed(5) if config["shuffle"] == "own" else None
    return DataLoader(ids, 2, shuffle=True, generator=own)


class Data(LightningDataModule):
    """The same data, as a data module."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.rows: DataLoader[Tensor] | None = None

    def setup(self, stage: str) -> None:
        self.rows = make_loader(self.config)

    def train_dataloader(self) -> DataLoader[Tensor]:
        assert self.rows is not None
        return self.rows


def parts(config: Mapping[str, Any]) -> tuple[Trainer, Tiny, dict[str, Any]]:
    """Trainer, module, and what else `fit` takes: by default two batches to an update and six updates to an epoch."""
    seed_everything(7, verbose=False)
    run = Path(config["run"])
    keep = ModelCheckpoint(run / "saved", "{step}", every_n_train_steps=3, save_top_k=-1, monitor=None)
    record = LightningCallback(run, program="tests.frameworks.lightning_program:build", config=config)
    settings: dict[str, Any] = {
        "max_steps": 16, "accelerator": "cpu", "gradient_clip_val": 0.5, "accumulate_grad_batches": 2, "logger": False,
        "enable_progress_bar": False, "enable_model_summary": False, "val_check_interval": 8,
        "num_sanity_val_steps": 0, "callbacks": [keep, record], "default_root_dir": run, **config["trainer"],
    }  # fmt: skip
    if config["data"] == "module":
        given: dict[str, Any] = {"datamodule": Data(config)}
    else:
        held_out: Any = torch.randint(0, 32, (4, 5), generator=torch.Generator().manual_seed(9))
        given = {"train_dataloaders": make_loader(config), "val_dataloaders": DataLoader(held_out, 2)}
    return Trainer(**settings), Tiny(config["interval"]), given


def build(config: Mapping[str, Any]) -> LightningLoop:
    """The same, driven from outside."""
    trainer, module, given = parts(config)
    return LightningLoop(trainer, module, **given)


def build_of_other_data(config: Mapping[str, Any]) -> LightningLoop:
    """The dataset has changed."""
    return build({**config, "salt": 5})


def record(run: Path, **config: Any) -> Path:
    """Train and record."""
    trainer, module, given = parts({**CONFIG, "run": str(run), **config})
    trainer.fit(module, **given)
    return run


def saved(run: Path, step: int) -> Path:
    """Lightning's own checkpoint of a step."""
    return run / "saved" / f"step={step}.ckpt"
