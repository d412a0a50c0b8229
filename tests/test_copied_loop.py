"""The loop that most people copy, with one bad batch: the draft of what the guide's five lines record names it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("xxhash")

from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.copied_loop import CLEAN, GARBAGE, RARE, REPEAT, train

pytestmark = pytest.mark.heavy
AT, STEPS, VOCABULARY, SEED = 95, 120, 64, 5


@pytest.mark.parametrize(
    ("fault", "cause"), [(GARBAGE, "garbage_data"), (RARE, "long_tail_tokens"), (REPEAT, "repeated_batch")]
)
def test_the_five_lines_show_what_was_wrong_with_the_batch(tmp_path: Path, fault: str, cause: str) -> None:
    train(tmp_path / "run", fault, SEED, AT, STEPS, VOCABULARY)
    run = open_run(tmp_path / "run")
    assert run.manifest.vocab_size == VOCABULARY
    worst = diagnose(run).incidents[0]
    assert (worst.onset_step, worst.hypotheses[0].cause) == (AT, cause)
    assert worst.verdict == "supported" or fault == RARE  # so little of the loop is known before the batch


def test_without_a_fault_there_is_no_incident(tmp_path: Path) -> None:
    train(tmp_path / "run", CLEAN, SEED, AT, STEPS, VOCABULARY)
    assert diagnose(open_run(tmp_path / "run")).verdict == "no_incident"
