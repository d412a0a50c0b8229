"""Replays under torchrun, over gloo: bit for bit with as many ranks as then, honest with another number of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from postmortem.checkpoint.manifest import read
from postmortem.sources import open_run
from tests.replay.small import STEPS, drive

pytestmark = [pytest.mark.bits, pytest.mark.processes]
ROOT = Path(__file__).parents[2]


def launched(ranks: int, *words: str) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.run(
        [*launch, "-m", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def recorded(folder: Path, ranks: int) -> Path:
    done = launched(ranks, "tests.replay.ranks_program", str(folder), str(STEPS))
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def replayed(ranks: int, run: Path, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return launched(ranks, "postmortem", "replay", str(run), "--out", str(out), "--trust", "--json", *words)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("two") / "run", 2)


def test_two_ranks_again_are_bit_for_bit_and_speak_once(tmp_path: Path, two: Path) -> None:
    done = replayed(2, two, tmp_path / "out", "--from-step", "4", "--null", "--check", "--save-at", "8")
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert told["differences"] == [] and told["compared"] == STEPS - 4 and told["arithmetic"] == []
    assert told["columns"] == ["batch_hash", "grad_norm", "loss"]
    assert done.stderr.count("plan    steps [4, 12)") == 1 and done.stderr.count("imports ") == 1
    assert read(tmp_path / "out" / "rollback" / "step-00000008.dcp").world_size == 2
    run = open_run(tmp_path / "out")
    assert run.ranks == (0, 1) and [s.attempt for s in run.segments] == [0, 1]
    assert [event.event for event in run.journal if event.event in ("rollback", "resume")] == ["rollback", "resume"]


def test_one_rank_takes_over_what_two_saved_and_says_so(tmp_path: Path, two: Path) -> None:
    result = drive(two, tmp_path / "out", 8, STEPS)
    assert result.arithmetic == ("2 ranks then, 1 now",)
    assert result.compared == STEPS - 8 and result.columns == ("grad_norm", "loss")
    then, now = open_run(two).series("loss"), open_run(tmp_path / "out").series("loss")
    assert then is not None and now is not None
    assert now.value == pytest.approx(then.value, rel=1e-4), "the same training, summed in another order"


@pytest.mark.slow
class TestSlow:
    def test_what_goes_wrong_is_said_once(self, tmp_path: Path, two: Path) -> None:
        done = replayed(2, two, tmp_path / "out", "--from-step", "4", "--change", "set=fails_at=6")
        assert done.returncode != 0
        said = [line for line in done.stderr.splitlines() if line.startswith("postmortem: ")]
        assert said == ["postmortem: fails_at = 6: the run's config has no such key"]

    def test_a_step_that_fails_on_the_last_rank(self, tmp_path: Path, two: Path) -> None:
        manifest = json.loads((two / "run.json").read_text())
        (two / "run.json").write_text(json.dumps({**manifest, "config": {"fails_at": 6}}))
        try:
            done = replayed(2, two, tmp_path / "out", "--from-step", "4", "--null")
        finally:
            (two / "run.json").write_text(json.dumps(manifest))
        said = [line for line in done.stderr.splitlines() if line.startswith("postmortem: ")]
        assert len(said) == 1 and "failed at step 6, on batch 6: RuntimeError: the shard is not there" in said[0]
        assert open_run(tmp_path / "out").row_steps[-1] >= 5

    @pytest.mark.parametrize("ranks", [1, 4])
    def test_one_and_four_ranks(self, tmp_path: Path, ranks: int) -> None:
        run = recorded(tmp_path / "run", ranks)
        done = replayed(ranks, run, tmp_path / "out", "--from-step", "8", "--null", "--check")
        assert done.returncode == 0, done.stderr[-4000:]
        told = json.loads(done.stdout)
        assert told["differences"] == [] and told["compared"] == STEPS - 8

    @pytest.mark.parametrize(("then", "now"), [(4, 2), (2, 4)])
    def test_reshards(self, tmp_path: Path, then: int, now: int) -> None:
        run = recorded(tmp_path / "run", then)
        done = replayed(now, run, tmp_path / "out", "--from-step", "4", "--null", "--check")
        assert done.returncode == 0, done.stderr[-4000:]
        assert json.loads(done.stdout)["arithmetic"] == [f"{then} ranks then, {now} now"]

    def test_a_probe(self, tmp_path: Path, two: Path) -> None:
        options = ("--out", str(tmp_path / "out"), "--trust", "--json")
        done = launched(2, "postmortem", "probe", str(two), "5:7", *options)
        assert done.returncode == 0, done.stderr[-4000:]
        assert [state["step"] for state in json.loads(done.stdout)["states"]] == [4, 8]
