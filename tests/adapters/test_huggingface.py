"""A recorded `Trainer` run, driven again by the Trainer's own loop."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch

from postmortem.adapters import HuggingFaceLoop
from postmortem.errors import UnreadableInput, UsageError
from postmortem.replay.comparison import DataChanged
from postmortem.replay.measuring import measure
from postmortem.sources import open_run
from tests.adapters.hf_program import CONFIG, build, make_trainer
from tests.adapters.recorded import again, column, hashes

pytestmark = pytest.mark.filterwarnings("default")  # of the Trainer and its parts; ours are tested elsewhere


def recorded(run: Path, **config: Any) -> Path:
    make_trainer({**CONFIG, "run": str(run), **config}).train()
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 updates, six to an epoch, with checkpoints of every third."""
    torch.set_num_threads(1)
    return recorded(tmp_path_factory.mktemp("hf") / "run")


@pytest.mark.parametrize("first", [0, 3, 6])
def test_a_null_replay_is_exact_over_epochs_and_evaluations(run: Path, tmp_path: Path, first: int) -> None:
    """6 is the end of an epoch."""
    done = again(run, tmp_path / "out", first, 16)
    assert done.exact, done.differences
    assert done.columns == ("batch_hash", "grad_norm", "loss")
    assert done.compared == 16 - first
    assert column(tmp_path / "out", "eval_loss") == column(run, "eval_loss")
    assert column(tmp_path / "out", "lr") == column(run, "lr")
    assert not (tmp_path / "out" / "saved" / "checkpoint-9").exists()  # the Trainer saves nothing by itself


def test_a_skip_passes_over_batches_and_the_steps_go_on(run: Path, tmp_path: Path) -> None:
    done = again(run, tmp_path / "out", 3, 12, "skip=5:7")
    assert [one.step for one in done.differences if one.column == "batch_hash"] == [5]
    index = column(tmp_path / "out", "batch_index")
    assert [index[step] for step in range(3, 12)] == [3, 4, 7, 8, 9, 10, 11, 12, 13]
    then, now = hashes(run), hashes(tmp_path / "out")
    assert [now[step] for step in range(5, 12)] == [then[step + 2] for step in range(5, 12)]
    assert column(tmp_path / "out", "loss")[4] == column(run, "loss")[4]


def test_replacing_and_moving(run: Path, tmp_path: Path) -> None:
    then = hashes(run)
    again(run, tmp_path / "replaced", 3, 6, "replace=4:5@9")
    assert hashes(tmp_path / "replaced")[4] == then[9]
    again(run, tmp_path / "moved", 3, 9, "move=4:5@7")
    now = hashes(tmp_path / "moved")
    assert (now[4], now[7], now[5]) == (then[7], then[4], then[5])


def test_the_rate_is_scaled_for_each_update_and_the_schedule_goes_on(run: Path, tmp_path: Path) -> None:
    again(run, tmp_path / "out", 3, 9, "lr-scale=0.5")
    then, now = column(run, "lr"), column(tmp_path / "out", "lr")
    assert [now[step] for step in range(3, 9)] == pytest.approx([then[step] / 2 for step in range(3, 9)], rel=1e-12)
    losses, before = column(tmp_path / "out", "loss"), column(run, "loss")
    assert losses[3] == before[3]
    assert losses[4] != before[4]


@pytest.mark.parametrize("change", ["clip=0.01", "beta2=0.5", "noise=1", "state=6", "moments=estimated:2"])
def test_changes_of_the_update_and_of_the_state(run: Path, tmp_path: Path, change: str) -> None:
    done = again(run, tmp_path / "out", 3, 7, change)
    first = {one.column: one.step for one in done.differences}
    assert "batch_hash" not in first
    if not change.startswith("noise"):  # whose least bits the loss may not show within a few steps
        assert first["loss"] >= (3 if change.startswith("state") else 4)
    if change.startswith("clip"):
        assert column(tmp_path / "out", "clip_threshold")[3] == 0.01
    if change.startswith("noise"):
        assert done.state != again(run, tmp_path / "null", 3, 7).state
        assert column(tmp_path / "out", "loss")[3] == pytest.approx(column(run, "loss")[3], rel=1e-5)


def test_rows_and_labels_of_a_batch(run: Path, tmp_path: Path) -> None:
    again(run, tmp_path / "dropped", 3, 5, "drop-rows=4@1")
    assert hashes(tmp_path / "dropped")[4] != hashes(run)[4]
    again(run, tmp_path / "masked", 3, 5, "mask=4")
    assert hashes(tmp_path / "masked")[4] == hashes(run)[4]  # labels only


def test_a_state_saved_on_the_way_is_one_to_go_on_from(run: Path, tmp_path: Path) -> None:
    again(run, tmp_path / "lead", 3, 8, "skip=4:5", save_at=(7, 8))
    saved = [one for one in open_run(tmp_path / "lead").checkpoints if one.role == "rollback"]
    assert [(one.step, one.complete) for one in saved] == [(7, True), (8, True)]
    whole = again(run, tmp_path / "whole", 3, 10, "skip=4:5")
    rest = again(tmp_path / "lead", tmp_path / "rest", 7, 10)
    assert rest.state == whole.state
    assert column(tmp_path / "rest", "batch_index")[7] == 8
    assert column(tmp_path / "rest", "loss")[9] == column(tmp_path / "whole", "loss")[9]


def test_a_batch_is_measured_without_a_trace(run: Path) -> None:
    program = build({**CONFIG, "run": str(run)})
    program.restore(run / "saved" / "checkpoint-3")
    before = program.state_dict()
    measured = measure(program, program.batch(3))
    again_measured = measure(program, program.batch(3))
    assert measured == again_measured
    assert measured.metrics["loss"] == pytest.approx(column(run, "loss")[3], rel=1e-6)
    assert measured.metrics["grad_norm"] == pytest.approx(column(run, "grad_norm")[3], rel=1e-6)
    after = program.state_dict()
    assert torch.equal(before["rng"]["torch"], after["rng"]["torch"])
    assert program.step(program.batch(3)).metrics["loss"] == column(run, "loss")[3]


def test_a_stream_is_read_by_index(tmp_path: Path) -> None:
    settings = {"sampling": "stream", "rows": 80, "arguments": {"max_steps": 8, "eval_strategy": "no"}}
    run = recorded(tmp_path / "run", **settings)
    assert again(run, tmp_path / "null", 3, 8).exact
    again(run, tmp_path / "skip", 3, 8, "skip=4:6")
    assert [hashes(tmp_path / "skip")[step] for step in (4, 5)] == [hashes(run)[step] for step in (6, 7)]


def test_an_epoch_that_ends_within_an_update(tmp_path: Path) -> None:
    """Eleven batches to an epoch, two to an update: the sixth has one. A skip would have it meet another place."""
    run = recorded(tmp_path / "run", rows=22)
    assert again(run, tmp_path / "null", 3, 16).exact
    with pytest.raises(UsageError, match="one update to a batch"):
        again(run, tmp_path / "skip", 3, 8, "skip=4:5")


def test_the_end_of_the_training_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ends its training after 16 steps"):
        again(run, tmp_path / "out", 3, 18)


def test_other_data_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataChanged, match="batch 3, the first that is not what the run consumed"):
        again(run, tmp_path / "out", 3, 6, program="tests.adapters.hf_program:build_of_other_data")


def test_an_order_that_no_index_finds_again_is_refused(tmp_path: Path) -> None:
    unseeded = {"accelerator_config": {"use_seedable_sampler": False}}
    program = build({**CONFIG, "run": str(tmp_path / "run"), "arguments": unseeded})
    with pytest.raises(UsageError, match="drawn anew from torch's global generator"):
        program.batch(0)


def test_a_checkpoint_that_would_run_something_is_refused(run: Path, tmp_path: Path) -> None:
    program = build({**CONFIG, "run": str(run)})
    copied = tmp_path / "checkpoint-3"
    copied.mkdir()
    for file in (run / "saved" / "checkpoint-3").iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    torch.save({"state": {}, "hook": print}, copied / "optimizer.pt")
    with pytest.raises(UnreadableInput, match=r"names __builtin__\.print"):
        program.restore(copied)


def test_what_the_loop_raises_is_raised_here(tmp_path: Path) -> None:
    program = build({**CONFIG, "run": str(tmp_path / "run")})
    batch = program.batch(0)
    for part in batch.parts:
        part["input_ids"] = part["input_ids"] + 1000
    with pytest.raises(IndexError):
        program.step(batch)


def test_a_program_that_is_let_go_ends_its_loop(tmp_path: Path) -> None:
    before = threading.active_count()
    program: HuggingFaceLoop | None = build({**CONFIG, "run": str(tmp_path / "run")})
    assert program is not None and program.optimizers
    assert threading.active_count() == before + 1
    program = None
    gc.collect()
    assert threading.active_count() == before
