"""The callback in a real Lightning `Trainer`, on a model of a few hundred parameters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning")

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from postmortem.frameworks.lightning.record import LightningCallback
from postmortem.record import Recorder
from postmortem.record.hashing import batch_hash
from postmortem.sources import open_run
from tests.frameworks.readings import events, hashes, numbers

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("default"),  # of the Trainer and its parts; ours are tested elsewhere
]

IDS = torch.randint(0, 32, (12, 5), generator=torch.Generator().manual_seed(0))


class Tiny(LightningModule):
    """Predicts the next of five ids."""

    def __init__(self, lr: float = 0.01, fails_at: int = -1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.embed, self.head = nn.Embedding(32, 8), nn.Linear(8, 32)
        self.lr, self.fails_at = lr, fails_at
        self.losses: list[float] = []

    def loss(self, ids: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.embed(ids[:, :-1])).flatten(0, 1), ids[:, 1:].flatten())

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.global_step == self.fails_at:
            raise RuntimeError("out of memory")
        loss = self.loss(batch)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(run: Path | Recorder, root: Path, *more: Any, module: Tiny | None = None, **settings: Any) -> Tiny:
    """Train a fresh module on batches of two rows, in their order."""
    ckpt_path, watch = settings.pop("ckpt_path", None), settings.pop("watch", False)
    seed_everything(7, verbose=False)
    module = module or Tiny()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    chosen: dict[str, Any] = {"max_steps": 6, "accelerator": "cpu", "gradient_clip_val": 0.5, **quiet, **settings}
    callbacks = [LightningCallback(run, watch=watch), *more]
    chosen.setdefault("enable_checkpointing", any(isinstance(one, ModelCheckpoint) for one in more))
    trainer = Trainer(default_root_dir=root, callbacks=callbacks, **chosen)
    trainer.fit(module, DataLoader(IDS, 2), DataLoader(IDS[:4], 2), ckpt_path=ckpt_path)
    return module


def test_rows_bear_the_number_of_their_update(tmp_path: Path) -> None:
    run = tmp_path / "run"
    module = fit(run, tmp_path)
    assert numbers(run, "loss") == pytest.approx(dict(enumerate(module.losses)))
    assert numbers(run, "lr") == pytest.approx({step: 0.01 / (1 + step) for step in range(6)})
    assert hashes(run) == {step: batch_hash(IDS[2 * step : 2 * step + 2]) for step in range(6)}
    assert numbers(run, "batch_index") == {step: step for step in range(6)}
    assert set(numbers(run, "clip_threshold").values()) == {0.5}
    seed_everything(7, verbose=False)
    fresh = Tiny()
    fresh.loss(IDS[:2]).backward()
    norm = math.hypot(*(float(p.grad.norm()) for p in fresh.parameters() if p.grad is not None))
    assert norm > 0.5  # so that clipping would show
    assert numbers(run, "grad_norm")[0] == pytest.approx(norm, rel=1e-5)


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    module = fit(run, tmp_path, accumulate_grad_batches=2, max_steps=3)
    means = {step: (module.losses[2 * step] + module.losses[2 * step + 1]) / 2 for step in range(3)}
    assert numbers(run, "loss") == pytest.approx(means)
    assert hashes(run) == {step: batch_hash(IDS[4 * step : 4 * step + 4]) for step in range(3)}


def test_validation_belongs_to_the_update_before_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    module = fit(run, tmp_path, val_check_interval=3, num_sanity_val_steps=2)
    found = numbers(run, "eval_loss")
    assert sorted(found) == [2, 5]
    with torch.no_grad():
        expected = (float(module.loss(IDS[:2])) + float(module.loss(IDS[2:4]))) / 2
    assert found[5] == pytest.approx(expected)


def test_config_checkpoints_and_end_are_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    keep = ModelCheckpoint(run / "saved", "{step}", every_n_train_steps=2, monitor=None, save_top_k=1)
    best = ModelCheckpoint(run / "best", "best-{step}", monitor="val_loss", save_top_k=1, save_weights_only=True)
    fit(run, tmp_path, keep, best)
    manifest = open_run(run).manifest
    assert (manifest.seed, manifest.dtype) == (7, "fp32")
    assert manifest.config["lr"] == 0.01
    assert manifest.config["trainer"]["gradient_clip_val"] == 0.5
    told = [(e["step"], e["role"], e["contents"], e["path"]) for e in events(run, "checkpoint")]
    assert told == [
        (2, "recovery", "full", "saved/step=2.ckpt"),
        (4, "recovery", "full", "saved/step=4.ckpt"),
        (6, "recovery", "full", "saved/step=6.ckpt"),
        (6, "best-k", "parameters", "best/best-step=6.ckpt"),
    ]
    assert [e["path"] for e in events(run, "checkpoint_deleted")] == ["saved/step=2.ckpt", "saved/step=4.ckpt"]
    assert [e["status"] for e in events(run, "run_end")] == ["completed"]


def test_a_resume_says_where_from_and_what_came_back(tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(run, tmp_path, ModelCheckpoint(run / "saved", "{step}", every_n_train_steps=4), max_steps=5)
    first = numbers(run, "loss")
    fit(run, tmp_path, ckpt_path=run / "saved" / "step=4.ckpt")
    (resume,) = events(run, "resume")
    assert (resume["from_step"], resume["checkpoint"]) == (4, "saved/step=4.ckpt")
    assert resume["restored"] == ["model", "optimizer", "schedule"]
    read = open_run(run)
    assert [(s.attempt, s.first_step, s.kept_until) for s in read.segments] == [(0, 0, 4), (1, 4, 6)]
    assert sorted(numbers(run, "loss")) == list(range(6))
    assert sorted(numbers(run, "batch_index")) == [0, 1, 2, 3]  # the loader began again: nobody knows its numbers
    assert first[3] == numbers(run, "loss")[3]


def test_an_exception_ends_the_run_as_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path / "run", tmp_path, module=Tiny(fails_at=3))
    (end,) = events(tmp_path / "run", "run_end")
    assert end["status"] == "failed"
    assert sorted(numbers(tmp_path / "run", "loss")) == [0, 1, 2]


class Wrapped(Tiny):
    """Trains a model of Hugging Face's form, as most modules that wrap one do: the module itself is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Inner(self.embed, self.head)
        del self.embed, self.head

    def loss(self, ids: Tensor) -> Tensor:
        logits = self.model(ids[:, :-1], labels=ids[:, 1:])["logits"]
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


class Inner(nn.Module):
    def __init__(self, embed: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.embed, self.head = embed, head

    def forward(self, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.embed(ids))}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_token_losses_are_recorded_where_logits_and_labels_pass_by(tmp_path: Path, accumulate: int) -> None:
    fit(tmp_path / "run", tmp_path, watch=True, module=Wrapped(), accumulate_grad_batches=accumulate)
    run = open_run(tmp_path / "run")
    loss, highest = numbers(tmp_path / "run", "loss"), numbers(tmp_path / "run", "token_loss_max")
    assert sorted(highest) == list(range(6)) and all(highest[step] > loss[step] for step in highest)
    assert run.manifest.vocab_size == 32


def test_watch_and_a_recorder_of_the_callers(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", config={"mine": 1}) as recorder:
        fit(recorder, tmp_path, watch=True)
        recorder.log(6, loss=1.0)  # still open
    run = open_run(tmp_path / "run")
    assert run.manifest.config == {"mine": 1}
    assert run.manifest.vocab_size == 32
    groups = [name for name in run.columns if name.startswith("grad_norm/")]
    assert groups
    parts = [numbers(tmp_path / "run", name)[0] for name in groups]
    assert math.hypot(*parts) == pytest.approx(numbers(tmp_path / "run", "grad_norm")[0], rel=1e-4)
