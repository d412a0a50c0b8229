"""What a diff says of replays and of rollbacks, in which words, and why runs without a difference are not identical."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from postmortem.diff import diff_runs, render
from postmortem.sources import open_run
from tests.makers import write_run
from tests.replay.small import drive
from tests.samples import sample

pytestmark = pytest.mark.heavy
SPIKE = sample("19-spike-001")


def test_the_rows_of_the_parent_are_no_work_of_the_replay(tmp_path: Path) -> None:
    drive(SPIKE, tmp_path / "out", 300, 340, "skip=312:313")
    parent, child = open_run(SPIKE), open_run(tmp_path / "out")
    for other in (parent, open_run(sample("19-clean-001"))):
        d = diff_runs(other, child)
        assert (d.b.lost.steps, d.b.discarded, d.b.lost.skipped_batches) == (0, (), 1)
        assert not any(incident.discarded for incident in d.b.incidents)
    lines = ["".join(span.text for span in line) for line in render.summary(diff_runs(parent, child))]
    assert not any("wasted" in line or line.startswith("Rolled back") for line in lines)


def test_nor_are_they_of_a_replay_of_a_replay_or_of_a_run_that_was_rolled_back(tmp_path: Path) -> None:
    drive(SPIKE, tmp_path / "first", 300, 340, "skip=312:313", save_at=(320,))
    drive(tmp_path / "first", tmp_path / "second", 320, 335, "lr-scale=0.5")
    d = diff_runs(open_run(tmp_path / "first"), open_run(tmp_path / "second"))
    assert (d.a.lost.steps, d.b.lost.steps) == (0, 0)
    recovered = sample("19-spike-001-recovered")
    drive(recovered, tmp_path / "again", 400, 420)
    d = diff_runs(open_run(recovered), open_run(tmp_path / "again"))
    assert (d.a.lost.steps, d.b.lost.steps) == (62, 0)
    assert [(s.attempt, s.first_step) for s in d.a.discarded] == [(s.attempt, s.first_step) for s in d.b.discarded]


def test_a_skip_that_was_not_reached_is_said_and_not_counted(tmp_path: Path) -> None:
    drive(SPIKE, tmp_path / "out", 300, 340, "skip=200:210,312:313,5000:5200")
    d = diff_runs(open_run(SPIKE), open_run(tmp_path / "out"))
    assert d.b.skipped == ((312, 313),) and d.b.lost.skipped_batches == 1
    assert "skipping batches [312, 313), told to skip batches [200, 210), [5000, 5200)" in d.top_lines[0]


def test_only_a_run_that_went_back_has_recovered(tmp_path: Path) -> None:
    loss = 2 + 0.02 * np.random.default_rng(0).standard_normal(800)
    spiked, rolled_back = loss.copy(), loss.copy()
    spiked[400:404] += 3
    clean = open_run(write_run(tmp_path / "clean", {"loss": loss}))
    by_itself = diff_runs(clean, open_run(write_run(tmp_path / "spiked", {"loss": spiked})))
    assert by_itself.verdict == "transient" and by_itself.reason.startswith("what happened in b passed by itself: ")
    step = np.concatenate((np.arange(420), np.arange(390, 800)))
    attempt = np.concatenate((np.zeros(420, int), np.ones(410, int)))
    rows = {"loss": np.concatenate((spiked[:420], rolled_back[390:] + 1e-4))}
    event = {"event": "rollback", "step": 390, "from_step": 419, "to_step": 390, "attempt": 1}
    repaired = open_run(write_run(tmp_path / "back", rows, steps=step, attempt=attempt, journal=[event]))
    d = diff_runs(clean, repaired)
    assert d.verdict == "recovered" and d.reason.startswith("b has recovered by going back")
    both = diff_runs(open_run(tmp_path / "spiked"), repaired)
    assert both.verdict == "recovered" and "and what happened in a passed by itself" in both.reason


@pytest.mark.parametrize("uneven", ["rows", "column"])
def test_runs_without_a_differing_value_say_why_they_are_not_identical(tmp_path: Path, uneven: str) -> None:
    loss = 2 + 0.02 * np.random.default_rng(0).standard_normal(800)
    step = np.arange(800)
    a = open_run(write_run(tmp_path / "a", {"loss": loss, "lr": np.full(800, 0.1)}, steps=step))
    keep = (step % 7 != 3) if uneven == "rows" else np.ones(800, bool)
    lr = np.where(step % 5 == 0, 0.1, None) if uneven == "column" else np.full(800, 0.1)
    b = open_run(write_run(tmp_path / "b", {"loss": loss[keep], "lr": lr[keep]}, steps=step[keep]))
    d = diff_runs(a, b)
    assert d.verdict == "equivalent" and d.divergence is None
    assert d.reason == "no value differs that both logged, but they did not log the same rows and columns"
    lines = ["".join(span.text for span in line) for line in render.summary(d)]
    (line,) = [line for line in lines if line.startswith("Divergence")]
    said = "one has rows that the other lacks" if uneven == "rows" else "they did not log lr at the same steps"
    assert said in line
