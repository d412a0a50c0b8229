"""docs/add-it-to-your-loop.md, followed to the letter: its Python blocks run, and what they record can be drafted."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from postmortem import pipeline
from postmortem.sources import open_run

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parent.parent
TITLE, *PARTS = re.split(r"^## ", (ROOT / "docs" / "add-it-to-your-loop.md").read_text(), flags=re.MULTILINE)
SECTIONS = {part.partition("\n")[0]: part for part in PARTS}
NEEDS = {"Hugging Face": "transformers", "Lightning": "lightning"}


def blocks(section: str, language: str) -> list[str]:
    """The fenced blocks of one language in a section."""
    return re.findall(rf"^```{language}\n(.*?)^```", SECTIONS[section], flags=re.MULTILINE | re.DOTALL)


RUNNABLE = [section for section in SECTIONS if blocks(section, "python")]


def follow(section: str, folder: Path) -> None:
    """Do what a section says, in an empty folder: its Python blocks as one file, started the way it says."""
    code = "".join(blocks(section, "python"))
    named = re.match(r"# (\w+\.py)\n", code)
    file = folder / (named[1] if named else "followed.py")
    file.write_text(code)
    command = [sys.executable, str(file)]
    for line in "".join(blocks(section, "console")).splitlines():
        if line.startswith("$ torchrun "):
            launcher = [sys.executable, "-m", "torch.distributed.run"]
            command = [*launcher, *line.removeprefix("$ torchrun ").split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def draft(run: Path) -> dict[str, Any]:
    """The diagnosis, by the command line."""
    command = [sys.executable, "-m", "postmortem", "draft", str(run), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("section", RUNNABLE)
def test_the_guide_as_it_is_printed(section: str, tmp_path: Path) -> None:
    for package in ("torch", "xxhash", *([NEEDS[section]] if section in NEEDS else [])):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    follow(section, tmp_path)
    recorded = sorted(path.parent.name for path in (tmp_path / "runs").glob("*/run.json"))
    assert recorded == sorted(set(re.findall(r'"runs/([a-z-]+)', "".join(blocks(section, "python")))))
    for name in recorded:
        run = open_run(tmp_path / "runs" / name)
        assert "loss" in run.columns
        assert run.notes == ()
        assert [event.keys["status"] for event in run.journal if event.event == "run_end"][-1:] == ["completed"]
    CHECKS.get(section, no_incident)(tmp_path / "runs")


def own_loop(runs: Path) -> None:
    """The garbage is found and named; the resume went on at step 120; the checkpoints are there."""
    worst = draft(runs / "five-lines")["incidents"][0]
    assert (worst["onset_step"], worst["hypotheses"][0]["cause"]) == (150, "garbage_data")
    five_lines = open_run(runs / "five-lines")
    assert any(name.startswith("grad_norm/") for name in five_lines.columns)
    assert five_lines.manifest.vocab_size == 64
    told = open_run(runs / "events")
    assert told.series("eval_loss") is not None
    assert [event.keys["kind"] for event in told.journal if event.event == "incident"][-1] == "oom"
    run = open_run(runs / "resumable")
    assert [(s.first_step, s.kept_until) for s in run.segments] == [(0, 120), (120, 160)]
    assert {c.role for c in run.checkpoints} == {"rollback", "recovery", "best-k"}
    assert all(c.complete for c in run.checkpoints)


def two_ranks(runs: Path) -> None:
    run = open_run(runs / "two-ranks")
    assert run.ranks == (0, 1)
    assert {"loss", "loss/rank1"} <= set(run.columns)
    assert [c.step for c in run.checkpoints] == [10, 20, 30]
    no_incident(runs)


def no_incident(runs: Path) -> None:
    for run in runs.iterdir():
        assert pipeline.diagnose(open_run(run)).verdict == "no_incident"


CHECKS = {"A loop of your own": own_loop, "Several ranks": two_ranks}


def test_every_section_that_has_a_check_is_there() -> None:
    assert {*CHECKS, *NEEDS} <= set(RUNNABLE)


def test_links_lead_somewhere() -> None:
    page = "".join((TITLE, *PARTS))
    for target in re.findall(r"\]\(([^)#]+)\)", page):
        assert (ROOT / "docs" / target).exists(), target


def test_the_example_goes_on_where_it_left_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("torch", "xxhash"):
        pytest.importorskip(package)
    train = runpy.run_path(str(ROOT / "examples" / "plain_loop.py"))["train"]
    train(tmp_path / "run", 110)
    assert capsys.readouterr().out == ""
    train(tmp_path / "run", 130)
    assert capsys.readouterr().out.startswith("resumed from step 100\n")
    run = open_run(tmp_path / "run")
    assert [(s.first_step, s.kept_until) for s in run.segments] == [(0, 100), (100, 130)]
    assert run.row_steps.tolist() == list(range(130))
    eval_loss = run.series("eval_loss")
    assert eval_loss is not None and eval_loss.step.tolist() == [49, 99]
    assert pipeline.diagnose(run).verdict == "no_incident"
