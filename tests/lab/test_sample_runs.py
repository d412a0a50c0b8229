"""The committed sample runs: complete, small, truthful, and the same bit for bit when made again."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from postmortem.sources import open_run
from tests.samples import COMMITTED, NAMES, ROOT, sample


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sample_runs", ROOT / "scripts" / "make_sample_runs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks its own annotations up
    spec.loader.exec_module(module)
    return module


def test_all_of_them_are_there() -> None:
    assert len(NAMES) == 7


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_whole_run_with_its_truth_outside(name: str) -> None:
    run = open_run(sample(name))
    assert run.id == name
    assert run.row_steps.tolist() == list(range(2000))
    assert 1 <= len(run.checkpoints) <= 3
    truth = json.loads((COMMITTED / "truth" / f"{name}.json").read_text("utf-8"))
    assert not any(truth["fault"] in path.read_text("utf-8") for path in sample(name).glob("*.json*"))


def test_the_spike_is_a_batch_of_sentences_with_tten() -> None:
    run = open_run(sample("19-spike-001"))
    pieces, ids = run.vocab(), run.labels("token_ids")
    assert pieces is not None
    assert ids is not None
    sentences = [[pieces[token] for token in sentence] for sentence in ids.value[312]]
    assert sum("tten" in sentence for sentence in sentences) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_regeneration_gives_the_same_run(name: str, tmp_path: Path) -> None:
    assert script().check(name, tmp_path) == []


def test_the_script_knows_exactly_the_committed_runs() -> None:
    assert sorted(script().SAMPLES) == NAMES
