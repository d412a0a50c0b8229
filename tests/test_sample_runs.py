"""The sample runs: what the lab really produced is diagnosed as what it was, and small enough for git."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.samples import COMMITTED, TRUTHS, sample


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda path: path.stem)
def test_the_true_fault_is_ranked_first(truth: Path) -> None:
    known = json.loads(truth.read_text())
    d = diagnose(open_run(sample(truth.stem)))
    if known["fault"] == "none":
        assert d.verdict == "no_incident"
    else:
        assert d.incidents[0].hypotheses[0].cause == known["fault"]
        assert d.verdict == "supported"
        assert d.incidents[0].onset_step == known["onset_step"]


def test_all_five_stories_are_there() -> None:
    faults = {json.loads(truth.read_text())["fault"] for truth in TRUTHS}
    assert faults == {"long_tail_tokens", "none", "lr_discontinuity", "optimizer_reset", "nan_propagation"}


def test_they_are_small_and_hold_few_checkpoints() -> None:
    runs = [sample(truth.stem) for truth in TRUTHS]
    files = [file for run in runs for file in run.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 20 * 2**20
    assert all(1 <= len(list((run / "rollback").iterdir())) <= 3 for run in runs)


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda path: path.stem)
def test_nothing_inside_a_run_names_its_fault(truth: Path) -> None:
    fault = json.loads(truth.read_text())["fault"]
    run = COMMITTED / truth.stem
    text = "".join((run / name).read_text() for name in ("run.json", "journal.jsonl"))
    assert fault == "none" or fault not in text
    assert fault == "none" or fault.replace("_", "") not in run.name.replace("-", "")
