"""The callback in a real `Trainer`, on a model of a few thousand parameters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from postmortem.frameworks.huggingface.record import HuggingFaceCallback
from postmortem.record import Recorder
from postmortem.record.hashing import batch_hash
from postmortem.sources import open_run
from tests.frameworks.readings import events, hashes, numbers

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("default"),  # of the Trainer and its parts; ours are tested elsewhere
]

ROWS, LENGTH, BATCH = 24, 8, 2


class Ids(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Rows of token ids, the same in every process."""

    def __init__(self) -> None:
        self.ids = torch.randint(0, 32, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[row], "labels": self.ids[row]}


class InOrder(Trainer):
    """Reads the rows in their order, so that a batch is known by its number."""

    def _get_train_sampler(self, *args: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class SpoiledModel(GPT2LMHeadModel):
    """Its loss is NaN at one forward pass of the training, or there is none."""

    spoiled_at = fails_at = -1
    passes = 0

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Any:
        output = super().forward(input_ids, labels=labels, **kwargs)
        if self.training:
            self.passes += 1
            if self.passes - 1 == self.fails_at:
                raise RuntimeError("out of memory")
            if self.passes - 1 == self.spoiled_at:
                output.loss = output.loss * math.nan
        return output


def tiny() -> SpoiledModel:
    torch.manual_seed(0)
    return SpoiledModel(GPT2Config(vocab_size=32, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2, use_cache=False))


def trainer(run: Path | Recorder, out: Path, *, watch: bool = False, **arguments: Any) -> InOrder:
    settings: dict[str, Any] = {
        "max_steps": 6, "learning_rate": 0.01, "per_device_train_batch_size": BATCH, "logging_steps": 1,
        "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 7, **arguments,
    }  # fmt: skip
    callback = HuggingFaceCallback(run, watch=watch)
    data = Ids()
    return InOrder(
        tiny(), TrainingArguments(output_dir=str(out), **settings), train_dataset=data, eval_dataset=data,
        callbacks=[callback],
    )  # fmt: skip


def test_rows_bear_the_number_of_their_update(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = trainer(run, tmp_path / "out", logging_nan_inf_filter=False)
    train.train()
    logged = [entry for entry in train.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [1, 2, 3, 4, 5, 6]
    for column, theirs in (("loss", "loss"), ("grad_norm", "grad_norm"), ("lr", "learning_rate")):
        mine = numbers(run, column)
        assert mine == pytest.approx({entry["step"] - 1: entry[theirs] for entry in logged}), column
    assert numbers(run, "lr")[0] == 0.01  # that of the update, before the scheduler moves on
    assert set(numbers(run, "clip_threshold").values()) == {1.0}


def test_every_step_has_a_row_even_where_the_trainer_logs_rarely(tmp_path: Path) -> None:
    trainer(tmp_path / "rare", tmp_path / "a", logging_steps=3).train()
    trainer(tmp_path / "each", tmp_path / "b").train()
    assert numbers(tmp_path / "rare", "loss") == pytest.approx(numbers(tmp_path / "each", "loss"), rel=1e-6)
    assert sorted(numbers(tmp_path / "rare", "grad_norm")) == [2, 5]


def test_a_nan_that_the_trainer_hides_is_recorded(tmp_path: Path) -> None:
    train = trainer(tmp_path / "run", tmp_path / "out")
    assert isinstance(train.model, SpoiledModel)
    train.model.spoiled_at = 2
    train.train()
    assert all(math.isfinite(entry["loss"]) for entry in train.state.log_history if "loss" in entry)
    loss = numbers(tmp_path / "run", "loss")
    assert min(step for step, value in loss.items() if math.isnan(value)) == 2


@pytest.mark.parametrize("accumulate", [1, 2])
def test_batches_are_those_of_the_step(tmp_path: Path, accumulate: int) -> None:
    run = tmp_path / "run"
    train = trainer(run, tmp_path / "out", gradient_accumulation_steps=accumulate, eval_strategy="steps", eval_steps=2)
    train.train()
    rows, ids = BATCH * accumulate, Ids().ids
    expected = {step: batch_hash(ids.roll(-rows * step, 0)[:rows]) for step in range(ROWS // rows)}
    found = hashes(run)
    assert {step: found[step] for step in expected if step in found} == {
        step: value for step, value in expected.items() if step < 6
    }
    assert numbers(run, "batch_index") == {step: step for step in range(6)}
    logged = {entry["step"] - 1: entry["loss"] for entry in train.state.log_history if "loss" in entry}
    assert numbers(run, "loss") == pytest.approx(logged, rel=1e-5)


def test_evaluation_belongs_to_the_update_before_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = trainer(run, tmp_path / "out", eval_strategy="steps", eval_steps=3)
    train.train()
    theirs = {entry["step"] - 1: entry["eval_loss"] for entry in train.state.log_history if "eval_loss" in entry}
    assert sorted(theirs) == [2, 5]
    assert numbers(run, "eval_loss") == pytest.approx(theirs)


def test_config_checkpoints_and_end_are_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer(run, run / "saved", save_strategy="steps", save_steps=2, save_total_limit=1).train()
    manifest = open_run(run).manifest
    assert (manifest.seed, manifest.dtype) == (7, "fp32")
    assert manifest.config["learning_rate"] == 0.01
    assert manifest.config["model"]["n_layer"] == 2
    saved = events(run, "checkpoint")
    assert [(e["step"], e["path"]) for e in saved] == [(n, f"saved/checkpoint-{n}") for n in (2, 4, 6)]
    assert {(e["role"], e["contents"]) for e in saved} == {("recovery", "full")}
    assert [e["path"] for e in events(run, "checkpoint_deleted")] == ["saved/checkpoint-2", "saved/checkpoint-4"]
    assert [(c.step, c.role) for c in open_run(run).checkpoints] == [(6, "recovery")]
    assert [e["status"] for e in events(run, "run_end")] == ["completed"]


def test_a_checkpoint_outside_the_run_is_named_as_text(tmp_path: Path) -> None:
    trainer(tmp_path / "run", tmp_path / "out", save_strategy="steps", save_steps=6, save_only_model=True).train()
    (saved,) = events(tmp_path / "run", "checkpoint")
    assert "path" not in saved
    assert saved["where"] == str((tmp_path / "out" / "checkpoint-6").resolve())
    assert saved["contents"] == "parameters"


def test_a_resume_says_where_from_and_what_came_back(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "run" / "saved"
    trainer(run, out, save_strategy="steps", save_steps=4).train()
    first = numbers(run, "loss")
    (out / "checkpoint-4" / "optimizer.pt").unlink()
    trainer(run, out).train(resume_from_checkpoint=str(out / "checkpoint-4"))
    (resume,) = events(run, "resume")
    assert (resume["from_step"], resume["checkpoint"]) == (4, "saved/checkpoint-4")
    assert resume["restored"] == ["model", "schedule", "rng", "loader"]
    read = open_run(run)
    assert [(s.attempt, s.first_step, s.kept_until) for s in read.segments] == [(0, 0, 4), (1, 4, 6)]
    assert numbers(run, "loss")[4] == pytest.approx(first[4])  # the same batch and parameters
    assert hashes(run)[4] == batch_hash(Ids().ids[8:10])


def test_a_training_after_one_that_broke_off(tmp_path: Path) -> None:
    train = trainer(tmp_path / "run", tmp_path / "out")
    assert isinstance(train.model, SpoiledModel)
    train.model.fails_at = 2
    with pytest.raises(RuntimeError, match="out of memory"):
        train.train()
    train.train()
    assert [e["status"] for e in events(tmp_path / "run", "run_end")] == ["failed", "completed"]
    assert sorted(numbers(tmp_path / "run", "loss")) == list(range(6))


def test_watch_and_a_recorder_of_the_callers(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", config={"mine": 1}) as recorder:
        trainer(recorder, tmp_path / "out", watch=True).train()
        recorder.log(6, loss=1.0)  # still open
    read = open_run(tmp_path / "run")
    assert read.manifest.config == {"mine": 1}
    assert read.manifest.vocab_size == 32
    assert sorted(numbers(tmp_path / "run", "token_loss_p50")) == list(range(6)), "at every step, without a call"
    groups = {name.partition("/")[2] for name in read.columns if name.startswith("grad_norm/")}
    assert {"layer0", "layer1"} <= groups
    parts = [numbers(tmp_path / "run", f"grad_norm/{group}")[0] for group in groups]
    assert math.hypot(*parts) == pytest.approx(numbers(tmp_path / "run", "grad_norm")[0], rel=1e-4)
