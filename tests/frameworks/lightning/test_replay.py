"""A recorded Lightning run, driven again by Lightning's own loop."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning")

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from postmortem.checkpoint.inspection import inspect
from postmortem.errors import UnreadableInput, UsageError
from postmortem.frameworks import LightningLoop
from tests.frameworks.lightning_program import CONFIG, build, parts, record, saved
from tests.frameworks.readings import numbers
from tests.frameworks.recorded import again

pytestmark = [
    pytest.mark.bits,
    pytest.mark.heavy,
    pytest.mark.filterwarnings("default"),  # of the Trainer and its parts; ours are tested elsewhere
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 updates, six to an epoch, with checkpoints of every third."""
    torch.set_num_threads(1)
    return record(tmp_path_factory.mktemp("lightning") / "run")


def test_data_modules_and_rates_that_fall_by_the_step(tmp_path: Path) -> None:
    run = record(tmp_path / "run", data="module", interval="step", shuffle="no", trainer={"limit_train_batches": 8})
    assert again(run, tmp_path / "null", 3, 16).exact
    again(run, tmp_path / "out", 3, 9, "lr-scale=0.5")
    then, now = numbers(run, "lr"), numbers(tmp_path / "out", "lr")
    assert [now[step] for step in range(3, 9)] == pytest.approx([then[step] / 2 for step in range(3, 9)], rel=1e-12)


def test_a_checkpoint_of_the_callback_tells_that_it_holds_generators(run: Path) -> None:
    assert "rng" in inspect(saved(run, 3), deep=False).contents


def test_a_loop_goes_to_another_step_by_its_own_checkpoints_only(run: Path) -> None:
    there = build({**CONFIG, "run": str(run)})
    there.restore(saved(run, 6))
    program = build({**CONFIG, "run": str(run)})
    program.load_state_dict(there.state_dict())
    with pytest.raises(UsageError, match="cannot go to step 6"):
        program.step(program.batch(6))


def test_an_order_that_no_index_finds_again_is_refused(tmp_path: Path) -> None:
    program = build({**CONFIG, "run": str(tmp_path / "run"), "shuffle": "global"})
    with pytest.raises(UsageError, match="drawn from torch's global generator"):
        program.batch(0)


def test_a_checkpoint_that_would_run_something_is_refused(run: Path, tmp_path: Path) -> None:
    program = build({**CONFIG, "run": str(run)})
    torch.save({"state_dict": {}, "hook": print}, tmp_path / "step=3.ckpt")
    with pytest.raises(UnreadableInput, match=r"names __builtin__\.print"):
        program.restore(tmp_path / "step=3.ckpt")


def test_a_replay_writes_no_logs_and_lets_go_of_its_loop(tmp_path: Path) -> None:
    before = set(threading.enumerate())  # those of earlier tests may end at any time
    trainer, module, given = parts({**CONFIG, "run": str(tmp_path / "run")})
    trainer.loggers = [CSVLogger(tmp_path / "logs")]
    program: LightningLoop | None = LightningLoop(trainer, module, **given)
    assert program is not None
    program.step(program.batch(0))
    assert len(set(threading.enumerate()) - before) == 1
    del trainer
    program = None
    gc.collect()
    assert set(threading.enumerate()) <= before
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_loader_is_refused(tmp_path: Path) -> None:
    trainer, module, _ = parts({**CONFIG, "run": str(tmp_path / "run")})
    assert isinstance(trainer, Trainer)
    given: Any = [torch.zeros(2, 5)]
    with pytest.raises(UsageError, match="a replay needs one DataLoader"):
        LightningLoop(trainer, module, given)


@pytest.mark.parametrize("key", ["state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step", ""])
def test_a_checkpoint_with_damaged_contents_is_named(key: str, run: Path, tmp_path: Path) -> None:
    """Whatever Lightning would raise at it: a part that is missing, or of another type."""
    contents = torch.load(saved(run, 3), weights_only=True)
    for part in ("x", [{}], {"x": 1}):
        damaged = {**contents, key: part} if key else part
        torch.save(damaged, tmp_path / "step=3.ckpt")
        program = build({**CONFIG, "run": str(tmp_path / "run")})
        try:
            program.restore(tmp_path / "step=3.ckpt")
        except UnreadableInput as refused:
            assert "step=3.ckpt" in str(refused)
        else:  # the loop does not read this part
            assert key in ("global_step", "lr_schedulers")
