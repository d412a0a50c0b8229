"""test-resume: exact is exact, and each piece that a state dict forgets is named."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from postmortem.errors import UsageError
from postmortem.resume_test import leg as legs
from postmortem.resume_test.run_resume_test import ResumeTestResult, run_resume_test

pytestmark = [pytest.mark.bits, pytest.mark.processes]
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Legs as forks of one server that has torch already: the same code and the same SIGKILL, without the imports."""
    monkeypatch.chdir(ROOT)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["postmortem.checkpoint.checkpointer", "postmortem.lab.program"])

    def launch(leg: legs.Leg, spec: Path) -> None:
        leg.write(spec)
        process = context.Process(target=legs.main, args=(spec,))
        process.start()
        process.join(60)
        assert process.exitcode == (-signal.SIGKILL if leg.name == "killed" else 0)

    monkeypatch.setattr("postmortem.resume_test.run_resume_test._run_leg", launch)


def run(factory: str, tmp_path: Path, **config: Any) -> ResumeTestResult:
    return run_resume_test(f"tests.replay.programs:{factory}", config, steps=16, folder=tmp_path / "test")


@pytest.mark.usefixtures("forked")
class TestForked:
    def test_a_complete_program_resumes_exactly(self, tmp_path: Path) -> None:
        result = run("build", tmp_path)
        assert result.verdict == "exact" and not result.pieces, result.lines()
        assert "bits" in result.lines()[0] and len(result.lines()) == 1

    def test_what_was_forgotten_and_did_not_act_yet_is_told(self, tmp_path: Path) -> None:
        """No loss, no batch and no state of the program's own telling shows it."""
        result = run("build_averaging", tmp_path)
        assert result.verdict == "exact"
        assert result.pieces == (("parameters", "averaged.bias"), ("parameters", "averaged.weight"))
        assert "not restored" in result.lines()[1] and "parameters (averaged.bias)" in result.lines()[1]

    @pytest.mark.parametrize(
        ("factory", "forgets", "kind"),
        [
            ("build", "moments", "optimizer moments"),
            ("build", "scheduler", "scheduler"),
            ("build", "rng", "random number generator"),
            ("build", "loader", "loader position"),
            ("build_rewired", "betas", "optimizer hyperparameters"),
        ],
    )
    def test_what_was_forgotten_is_named(self, tmp_path: Path, factory: str, forgets: str, kind: str) -> None:
        result = run(factory, tmp_path, forgets=forgets)
        assert result.verdict == "differs"
        assert result.pieces[0][0] == kind, result.pieces[:5]
        assert result.first_step == 8, result
        assert kind in result.lines()[1]

    def test_the_lab_resumes_exactly(self, tmp_path: Path) -> None:
        from postmortem.lab.config import default_config

        config = default_config(5, 30)
        result = run_resume_test("postmortem.lab.program:build", config, steps=12, folder=tmp_path / "test")
        assert result.verdict == "exact", result.lines()

    def test_a_program_that_does_not_repeat_itself_is_not_judged(self, tmp_path: Path) -> None:
        result = run("build", tmp_path, drifts=True)
        assert result.verdict == "not repeatable"
        assert result.first_step == 0
        assert "deterministic" in result.lines()[1]


def test_a_kill_outside_the_test_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be inside"):
        run_resume_test("tests.replay.programs:build", {}, steps=10, kill_at=10, folder=tmp_path)


def test_the_command_kills_a_real_process_and_names_the_piece(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"forgets": "moments"}))
    done = command("tests.replay.programs:build", "--config", str(config), "--steps", "8", "--json")
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "differs"
    assert result["pieces"][0][0] == "optimizer moments"


def test_a_program_that_fails_is_one_message() -> None:
    done = command("tests.replay.programs:build_broken")
    assert done.returncode == 2
    assert "the dataset is not there" in done.stderr
    assert "Traceback" not in done.stderr


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "postmortem", "test-resume", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
