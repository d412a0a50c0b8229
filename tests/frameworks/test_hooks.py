"""The hook object, driven as trainers that take one drive it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from postmortem.errors import UsageError
from postmortem.frameworks.hooks import PostmortemHook
from postmortem.record import Recorder
from postmortem.record.hashing import batch_hash
from postmortem.sources import open_run
from tests.frameworks.readings import events, hashes, numbers


@dataclass
class Optim:
    lr: float = 0.01


@dataclass
class JobConfig:
    """A trainer's configuration, nested as such are."""

    seed: int = 3
    optimizer: Optim = field(default_factory=Optim)


@dataclass
class StepContext:
    """What KempnerForge hands to `on_step_end`."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    tokens_seen: int
    model: nn.Module
    optimizer: torch.optim.Optimizer


def drive(hook: Any, steps: int, folder: Path, start: int = 0) -> None:
    """A trainer that knows hooks, and nothing of who listens."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    hook.on_train_begin(JobConfig())
    step = start
    while step < steps:
        optimizer.zero_grad()
        loss = model(torch.ones(2, 4)).square().mean()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), 1e9))
        optimizer.step()
        step += 1
        hook.on_step_end(StepContext(step, loss.item(), norm, 0.01, 8 * step, model, optimizer))
        if step % 2 == 0:
            hook.on_eval_end({"loss": 0.5, "accuracy": 0.9}, step)
            (folder / f"step_{step}").mkdir(parents=True)
            hook.on_checkpoint_save(step, str(folder))
    hook.on_train_end(step, 8 * step)


def test_a_whole_training(tmp_path: Path) -> None:
    run = tmp_path / "run"
    drive(PostmortemHook(run), 4, run / "saved")
    read = open_run(run)
    assert read.manifest.config == {"seed": 3, "optimizer": {"lr": 0.01}}
    assert sorted(numbers(run, "loss")) == [0, 1, 2, 3]
    assert numbers(run, "lr") == dict.fromkeys(range(4), 0.01)
    assert numbers(run, "tokens_seen") == {step: 8 * (step + 1) for step in range(4)}
    assert numbers(run, "eval_loss") == {1: 0.5, 3: 0.5}
    told = [(e["step"], e["path"]) for e in events(run, "checkpoint")]
    assert told == [(2, "saved/step_2"), (4, "saved/step_4")]
    assert [e["status"] for e in events(run, "run_end")] == ["completed"]
    assert events(run, "resume") == []


def test_a_first_step_that_is_not_the_first_of_all_is_a_resume(tmp_path: Path) -> None:
    drive(PostmortemHook(tmp_path / "run"), 3, tmp_path / "a")
    drive(PostmortemHook(tmp_path / "run"), 4, tmp_path / "b", start=2)
    (resume,) = events(tmp_path / "run", "resume")
    assert resume["from_step"] == 2
    assert [(s.first_step, s.kept_until) for s in open_run(tmp_path / "run").segments] == [(0, 2), (2, 4)]


def test_keywords_and_counting_from_zero(tmp_path: Path) -> None:
    run, ids = tmp_path / "run", torch.arange(6).view(2, 3)
    hook = PostmortemHook(run, counts_from=0)
    hook.on_train_begin(lr=0.1)
    hook.on_step_end(step=0, loss=torch.tensor(2.0), batch=ids, batch_index=5)
    hook.on_instability(0, "nan", action="skip")
    hook.on_checkpoint_save(0, run / "saved.pt", role="rollback")
    hook.on_train_end()
    assert numbers(run, "loss") == {0: 2.0}
    assert (hashes(run), numbers(run, "batch_index")) == ({0: batch_hash(ids)}, {0: 5})
    (incident,) = events(run, "incident")
    assert (incident["step"], incident["kind"], incident["action"]) == (0, "nan", "skip")
    (saved,) = events(run, "checkpoint")
    assert (saved["step"], saved["role"], saved["path"]) == (1, "rollback", "saved.pt")


def test_watch_samples_from_the_second_step_on(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run") as recorder:
        drive(PostmortemHook(recorder, watch=True), 12, tmp_path / "saved")
    assert any(name.startswith("grad_norm/") for name in open_run(tmp_path / "run").columns)


def test_calls_out_of_order_and_without_a_step_are_refused(tmp_path: Path) -> None:
    hook = PostmortemHook(tmp_path / "run")
    with pytest.raises(UsageError, match="on_train_begin first"):
        hook.on_step_end(step=1, loss=1.0)
    hook.on_train_begin()
    with pytest.raises(UsageError, match="on_step_end needs the trainer's step"):
        hook.on_step_end(loss=1.0)
    hook.on_train_end()
