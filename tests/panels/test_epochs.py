"""A movement with the period of an epoch is said, and neither a batch nor the rate is named for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from postmortem.diagnosis import Incident
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.public_cases import REPORTS, read

LENGTH, EPOCHS = 120, 5
STEP = np.arange(LENGTH * EPOCHS)


def _incidents(path: Path, loss: np.ndarray, epoch: str = "epoch") -> tuple[Incident, ...]:
    loss = loss + 0.03 * np.random.default_rng(0).standard_normal(STEP.size)
    rows = [f"{i},{i / LENGTH:.5f},{v:.6f},{1e-3 * min(i, 50) / 50}" for i, v in enumerate(loss)]
    path.write_text(f"step,{epoch},loss,lr\n" + "\n".join(rows))
    return diagnose(open_run(path)).incidents


def _names_neither_batch_nor_rate(incident: Incident) -> bool:
    """Whether §4 proposes no replay, and §5 not even declines to skip a batch."""
    sections = (incident.not_known, incident.lesson, *(remedy.text for remedy in incident.changes))
    return not any(word in text for text in sections for word in ("batches", "rate", "replay"))


def _text(incident: Incident, slug: str) -> str:
    return next((e.text for e in incident.evidence if e.observation == slug), "")


@pytest.mark.parametrize("epoch", ["epoch", "train/epoch", "current_epoch"])
def test_a_sawtooth_is_the_order_of_the_data(epoch: str, tmp_path: Path) -> None:
    incidents = _incidents(tmp_path / "log.csv", 3 - 0.3 * (STEP // LENGTH) + 0.25 * (STEP % LENGTH) / LENGTH, epoch)
    assert _text(incidents[0], "data.epoch_period") == (
        "the loss falls at the start of 4 of 4 epochs and rises in between, first at step 120 and then every 120 rows: "
        "its movement has the period of an epoch"
    )
    for incident in incidents:
        assert _text(incident, "data.epoch_period") and incident.hypotheses[0].cause == "unknown"
        assert _names_neither_batch_nor_rate(incident)


def test_spikes_that_begin_with_epochs_are_one_movement(tmp_path: Path) -> None:
    spikes = np.where((STEP % LENGTH < 6) & (STEP >= LENGTH), 1.5, 0.0)
    incidents = _incidents(tmp_path / "log.csv", 2.3 + 2 * np.exp(-STEP / 40) + spikes)
    assert len(incidents) == 4
    for incident in incidents:
        text = "4 of 4 incidents of the loss begin where one of 5 epochs does: its movement has the period of an epoch"
        assert _text(incident, "data.epoch_period") == text
        assert incident.hypotheses[0].cause not in ("lr_too_high", "long_tail_tokens", "garbage_data", "repeated_batch")


@pytest.mark.parametrize(("at", "slug"), [(LENGTH, "data.epoch_start"), (LENGTH + 40, "")])
def test_a_single_spike_at_a_border_is_a_hint_only(at: int, slug: str, tmp_path: Path) -> None:
    loss = 2.3 + 2 * np.exp(-STEP / 40)
    loss[at : at + 3] += 2
    (incident,) = _incidents(tmp_path / "log.csv", loss)
    assert {e.observation for e in incident.evidence if "epoch" in e.observation} == ({slug} if slug else set())


@pytest.mark.skipif(not REPORTS.is_dir(), reason="the public cases are not here")
def test_the_public_sawtooth_has_the_period_of_an_epoch_and_names_neither_a_batch_nor_the_rate() -> None:
    worst = read(REPORTS / "08-epoch-sawtooth-shuffle-buffer" / "input").worst
    assert worst is not None and worst.hypotheses[0].cause == "unknown" and not worst.root_cause
    assert "every 1,400 rows: its movement has the period of an epoch" in _text(worst, "data.epoch_period")
    named = next(h.cause for h in worst.hypotheses if h.cause != "unknown")
    assert named in ("benign", "nan_propagation", "empty_labels"), "of no batch, and not of the rate"
    assert _names_neither_batch_nor_rate(worst)


@pytest.mark.skipif(not REPORTS.is_dir(), reason="the public cases are not here")
def test_the_public_ranks_that_differ_are_named_with_column_rank_and_step() -> None:
    worst = read(REPORTS / "22-ranks-diverge-gradscaler" / "input").worst
    assert worst is not None and worst.hypotheses[0].cause == "unknown"
    for column in ("param_hash", "loss_scale"):
        text = f"{column} differs between the ranks from step 120 on: rank 1 is not equal to rank 0"
        assert any(text in e.text for e in worst.evidence)
