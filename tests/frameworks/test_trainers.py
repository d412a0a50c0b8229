"""What holds of every trainer that is driven by its own loop: recorded, then driven again."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")

import torch

from postmortem.errors import UsageError
from postmortem.program import measure
from postmortem.replay.comparison import DataChanged
from postmortem.sources import open_run
from tests.frameworks.readings import hashes, numbers
from tests.frameworks.recorded import again

pytestmark = [
    pytest.mark.bits,
    pytest.mark.heavy,
    pytest.mark.filterwarnings("default"),  # of the trainers and their parts; ours are tested elsewhere
]

TRAINERS = {"transformers": "hf_program", "lightning": "lightning_program"}


@pytest.fixture(scope="module", params=TRAINERS)
def trainer(request: pytest.FixtureRequest) -> ModuleType:
    """A program: `record(run, **config)`, `build(config)`, CONFIG, and `saved(run, step)`."""
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return import_module(f"tests.frameworks.{TRAINERS[request.param]}")


@pytest.fixture(scope="module")
def run(trainer: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 updates, six to an epoch, with checkpoints of every third."""
    torch.set_num_threads(1)
    return trainer.record(tmp_path_factory.mktemp("trained") / "run")


@pytest.mark.parametrize("first", [0, 3, 6, 9])
def test_a_null_replay_is_exact_over_epochs_and_evaluations(run: Path, tmp_path: Path, first: int) -> None:
    """6 is the end of an epoch, 9 is in the middle of one."""
    done = again(run, tmp_path / "out", first, 16)
    assert done.exact, done.differences
    assert done.columns == ("batch_hash", "grad_norm", "loss")
    assert done.compared == 16 - first
    assert numbers(tmp_path / "out", "eval_loss") == numbers(run, "eval_loss")
    assert numbers(tmp_path / "out", "lr") == numbers(run, "lr")
    assert {path.parent.name for path in (tmp_path / "out").rglob("*.ckpt")} <= {"saved"}
    assert not (tmp_path / "out" / "saved" / "checkpoint-15").exists()  # a trainer saves nothing by itself


def test_a_skip_passes_over_batches_and_the_steps_go_on(run: Path, tmp_path: Path) -> None:
    done = again(run, tmp_path / "out", 3, 12, "skip=5:7")
    assert [one.step for one in done.differences if one.column == "batch_hash"] == [5]
    index = numbers(tmp_path / "out", "batch_index")
    assert [index[step] for step in range(3, 12)] == [3, 4, 7, 8, 9, 10, 11, 12, 13]
    then, now = hashes(run), hashes(tmp_path / "out")
    assert [now[step] for step in range(5, 12)] == [then[step + 2] for step in range(5, 12)]
    assert numbers(tmp_path / "out", "loss")[4] == numbers(run, "loss")[4]


def test_replacing_and_moving(run: Path, tmp_path: Path) -> None:
    then = hashes(run)
    again(run, tmp_path / "replaced", 3, 6, "replace=4:5@9")
    assert hashes(tmp_path / "replaced")[4] == then[9]
    again(run, tmp_path / "moved", 3, 9, "move=4:5@7")
    now = hashes(tmp_path / "moved")
    assert (now[4], now[7], now[5]) == (then[7], then[4], then[5])


def test_the_rate_is_scaled_for_each_update_and_the_schedule_goes_on(run: Path, tmp_path: Path) -> None:
    again(run, tmp_path / "out", 3, 9, "lr-scale=0.5")
    then, now = numbers(run, "lr"), numbers(tmp_path / "out", "lr")
    assert [now[step] for step in range(3, 9)] == pytest.approx([then[step] / 2 for step in range(3, 9)], rel=1e-12)
    losses, before = numbers(tmp_path / "out", "loss"), numbers(run, "loss")
    assert losses[3] == before[3]
    assert losses[4] != before[4]


@pytest.mark.parametrize("change", ["clip=0.01", "beta2=0.5", "noise=1", "state=6"])
def test_changes_of_the_update_and_of_the_state(run: Path, tmp_path: Path, change: str) -> None:
    done = again(run, tmp_path / "out", 3, 7, change)
    first = {one.column: one.step for one in done.differences}
    assert "batch_hash" not in first
    if not change.startswith("noise"):  # whose least bits the loss may not show within a few steps
        assert first["loss"] >= (3 if change.startswith("state") else 4)
    if change.startswith("clip"):
        assert numbers(tmp_path / "out", "clip_threshold")[3] == 0.01
        assert numbers(tmp_path / "out", "grad_norm")[3] == numbers(run, "grad_norm")[3]
    if change.startswith("noise"):
        assert done.state != again(run, tmp_path / "null", 3, 7).state
        assert numbers(tmp_path / "out", "loss")[3] == pytest.approx(numbers(run, "loss")[3], rel=1e-5)


def test_a_state_saved_on_the_way_is_one_to_go_on_from(run: Path, tmp_path: Path) -> None:
    again(run, tmp_path / "lead", 3, 8, "skip=4:5", save_at=(6, 7, 8))
    saved = [one for one in open_run(tmp_path / "lead").checkpoints if one.role == "rollback"]
    assert [(one.step, one.complete) for one in saved] == [(6, True), (7, True), (8, True)]
    whole = again(run, tmp_path / "whole", 3, 15, "skip=4:5")
    for first in (6, 7):
        rest = again(tmp_path / "lead", tmp_path / f"rest-{first}", first, 15)
        assert rest.state == whole.state
        assert numbers(tmp_path / f"rest-{first}", "batch_index")[8] == 9
        assert numbers(tmp_path / f"rest-{first}", "lr") == numbers(tmp_path / "whole", "lr")


def test_a_batch_is_measured_without_a_trace(trainer: ModuleType, run: Path) -> None:
    program = trainer.build({**trainer.CONFIG, "run": str(run)})
    program.restore(trainer.saved(run, 3))
    before = program.state_dict()
    measured = measure(program, program.batch(3))
    assert measured == measure(program, program.batch(3))
    assert measured.metrics["loss"] == pytest.approx(numbers(run, "loss")[3], rel=1e-6)
    assert measured.metrics["grad_norm"] == pytest.approx(numbers(run, "grad_norm")[3], rel=1e-6)
    after = program.state_dict()
    assert torch.equal(before["rng"]["torch"], after["rng"]["torch"])
    assert all(torch.equal(before["model"][name], after["model"][name]) for name in before["model"])
    assert program.step(program.batch(3)).metrics["loss"] == numbers(run, "loss")[3]


def test_the_end_of_the_training_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ends its training after 16 steps"):
        again(run, tmp_path / "out", 12, 18)


def test_other_data_are_named(trainer: ModuleType, run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataChanged, match="batch 3 is the first that differs from what the run consumed"):
        again(run, tmp_path / "out", 3, 6, program=f"{trainer.__name__}:build_of_other_data")
