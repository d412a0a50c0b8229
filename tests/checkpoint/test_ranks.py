"""Several ranks, over gloo: what they save together fits any number of processes, sharded or not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from postmortem.checkpoint import Checkpointer, Policy, load_checkpoint
from postmortem.checkpoint.manifest import read
from tests.checkpoint.helpers import Notes, Training, same

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]
POLICY = Policy(rollback_every=2, recovery_every=4)


def two_ranks(mode: str, folder: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*launch, "-m", "tests.checkpoint.ranks_worker", mode, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-6000:]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that one process began and two ranks went on with, and what the first saved."""
    folder = tmp_path_factory.mktemp("ranks") / "run"
    training = Training()
    with Checkpointer(Notes(folder), training.state(), POLICY) as saves:
        training.run(0, 4, saves)
    taken = training.state().state_dict()
    plain = {"model": {k: v.clone() for k, v in taken["model"].items()}, "optimizer": taken["optimizer"]}
    two_ranks("resume_and_save", folder)
    return folder, plain


def test_a_plain_checkpoint_goes_into_sharded_parameters_and_moments(run: tuple[Path, dict[str, Any]]) -> None:
    folder, plain = run
    assert same(torch.load(folder / "taken.pt", weights_only=True), plain)


def test_one_process_loads_what_two_ranks_saved(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    path = folder / "recovery" / "step-00000008.dcp"
    assert read(path).world_size == 2
    assert (folder / "latest").resolve() == path
    loaded, expected = load_checkpoint(path), torch.load(folder / "expected.pt", weights_only=False)
    assert same(loaded["model"], expected["model"])
    assert same(loaded["optimizer"], expected["optimizer"])
    assert same(loaded["scheduler"], expected["scheduler"])


def test_the_shards_are_shared_out_and_replicated_tensors_are_kept_once(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    path = folder / "recovery" / "step-00000008.dcp"
    sizes = [(path / f"__{rank}_0.distcp").stat().st_size for rank in (0, 1)]
    assert min(sizes) > 0.2 * max(sizes)
    assert {"state-0.json", "state-1.json", "__1_0.distcp"} <= set(read(path).files)


def test_a_plain_training_resumes_from_two_ranks(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    training = Training()
    with Checkpointer(Notes(folder), training.state(), POLICY, asynchronous=False) as saves:
        resumed = saves.resume(folder / "recovery" / "step-00000008.dcp")
    assert resumed is not None and (resumed.saved_world_size, resumed.world_size) == (2, 1)
    assert "ranks: saved by 2, resumed by 1" in resumed.summary()
    expected = torch.load(folder / "expected.pt", weights_only=False)
    state = training.state().state_dict()
    assert all(same(state[name], expected[name]) for name in ("model", "optimizer", "scheduler", "loader", "extra"))


def test_replicas_are_kept_once_and_a_ranks_own_by_rank(run: tuple[Path, dict[str, Any]]) -> None:
    folder = run[0] / "replicas"
    loaded = load_checkpoint(folder / "latest")
    assert same(loaded["model"], dict(torch.load(folder / "expected.pt", weights_only=True)))
    assert loaded["own"]["held"].eq(0).all()
    tensors = sum(tensor.nbytes for tensor in loaded["model"].values())
    assert read(folder / "latest").bytes < 2 * 160_000 + 3 * tensors + 60_000


@pytest.mark.slow
def test_two_to_one_to_two_ranks(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    training = Training()
    with Checkpointer(Notes(folder), training.state(), POLICY) as saves:
        saves.resume(folder / "recovery" / "step-00000008.dcp")
        training.run(8, 12, saves)
    expected = training.state().state_dict()
    two_ranks("resume_only", folder)
    back = torch.load(folder / "back.pt", weights_only=False)
    assert all(same(back[name], expected[name]) for name in ("model", "optimizer", "scheduler", "loader", "extra"))
