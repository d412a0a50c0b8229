"""A recorded `Trainer` run, driven again by the Trainer's own loop."""

from __future__ import annotations

import gc
import json
import shutil
import threading
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch

from postmortem.errors import UnreadableInput, UsageError
from postmortem.frameworks import HuggingFaceLoop
from tests.frameworks.hf_program import CONFIG, build, record, saved
from tests.frameworks.readings import hashes
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
    return record(tmp_path_factory.mktemp("hf") / "run")


def test_moments_are_measured_anew(run: Path, tmp_path: Path) -> None:
    first = {one.column: one.step for one in again(run, tmp_path / "out", 3, 7, "moments=estimated:2").differences}
    assert "batch_hash" not in first and first["loss"] >= 4


def test_rows_and_labels_of_a_batch(run: Path, tmp_path: Path) -> None:
    again(run, tmp_path / "dropped", 3, 5, "drop-rows=4@1")
    assert hashes(tmp_path / "dropped")[4] != hashes(run)[4]
    again(run, tmp_path / "masked", 3, 5, "mask=4")
    assert hashes(tmp_path / "masked")[4] == hashes(run)[4]  # labels only


def test_a_stream_is_read_by_index(tmp_path: Path) -> None:
    settings = {"sampling": "stream", "rows": 80, "arguments": {"max_steps": 8, "eval_strategy": "no"}}
    run = record(tmp_path / "run", **settings)
    assert again(run, tmp_path / "null", 3, 8).exact
    again(run, tmp_path / "skip", 3, 8, "skip=4:6")
    assert [hashes(tmp_path / "skip")[step] for step in (4, 5)] == [hashes(run)[step] for step in (6, 7)]


def test_an_epoch_that_ends_within_an_update(tmp_path: Path) -> None:
    """Eleven batches to an epoch, two to an update: the sixth has one. A skip would have it meet another place."""
    run = record(tmp_path / "run", rows=22)
    assert again(run, tmp_path / "null", 3, 16).exact
    with pytest.raises(UsageError, match="one update per batch"):
        again(run, tmp_path / "skip", 3, 8, "skip=4:5")


def test_an_order_that_no_index_finds_again_is_refused(tmp_path: Path) -> None:
    unseeded = {"accelerator_config": {"use_seedable_sampler": False}}
    program = build({**CONFIG, "run": str(tmp_path / "run"), "arguments": unseeded})
    with pytest.raises(UsageError, match="drawn from torch's global generator"):
        program.batch(0)


def test_a_checkpoint_that_would_run_something_is_refused(run: Path, tmp_path: Path) -> None:
    program = build({**CONFIG, "run": str(run)})
    copied = tmp_path / "checkpoint-3"
    copied.mkdir()
    for file in (saved(run, 3)).iterdir():
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
    before = set(threading.enumerate())  # those of earlier tests may end at any time
    program: HuggingFaceLoop | None = build({**CONFIG, "run": str(tmp_path / "run")})
    assert program is not None and program.optimizers
    assert len(set(threading.enumerate()) - before) == 1
    program = None
    gc.collect()
    assert set(threading.enumerate()) <= before


DAMAGED = ("trainer_state.json", "config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_of_a_checkpoint_is_named(name: str, run: Path, tmp_path: Path) -> None:
    """Whatever the Trainer would raise at it: other JSON, no JSON, cut short, empty, a pickle of something else."""
    program = None
    for number, data in enumerate((b"", b"[]", b'{"global_step": "x"}', b"\x80\x02}.", bytes(64), b"\xff" * 64)):
        folder = tmp_path / str(number) / saved(run, 3).name
        shutil.copytree(saved(run, 3), folder)
        if not (folder / name).exists() or (name == "config.json" and data[:1] == b"{"):
            continue
        (folder / name).write_bytes(data)
        program = build({**CONFIG, "run": str(tmp_path / "run")})
        with pytest.raises(UnreadableInput) as refused:
            program.restore(folder)
        assert name in str(refused.value) or folder.name in str(refused.value)
    assert program is not None


def test_a_state_of_another_step_is_refused(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / saved(run, 3).name
    shutil.copytree(saved(run, 3), folder)
    state = json.loads((folder / "trainer_state.json").read_text())
    for step in (10**15, -1, 4, None, True, "3", 3.5, [3]):
        (folder / "trainer_state.json").write_text(json.dumps({**state, "global_step": step}))
        with pytest.raises(UnreadableInput, match="global_step is"):
            build({**CONFIG, "run": str(tmp_path / "run")}).restore(folder)
    (folder / "trainer_state.json").unlink()
    with pytest.raises(UnreadableInput, match=f"{folder.name}: the Hugging Face Trainer cannot restore it"):
        build({**CONFIG, "run": str(tmp_path / "run")}).restore(folder)
