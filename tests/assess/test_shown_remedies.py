"""§5 and §7 after replays: what they showed is advised, whether or not the cause is known."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

from postmortem.assess.detection import detect
from postmortem.assess.suspect import suspect_for
from postmortem.assess.verification import verification
from postmortem.assess.wording import cautious_remedies, fact_without_cause, lesson
from postmortem.case import Case
from postmortem.causes import causes
from postmortem.change import Change
from postmortem.shown import NOTHING, Shown
from postmortem.sources import open_run
from tests.makers import noise, write_checkpoints, write_run

ONSET, RATE_BEFORE, RATE = 260, 1e-3, 4e-3  # a warmup that has just ended at RATE
BATCHES = (ONSET, ONSET + 2)
(LR_TOO_HIGH,) = (cause for cause in causes() if cause.slug == "lr_too_high")


@pytest.fixture(scope="module")
def spiked(tmp_path_factory: pytest.TempPathFactory) -> Case:
    steps = np.arange(400)
    loss = 3 + 2 * np.exp(-steps / 150) + noise(0.02, 400)
    loss[ONSET : ONSET + 12] += 4
    rate = np.interp(steps, (ONSET - 100, ONSET), (RATE_BEFORE, RATE))
    run = write_run(
        tmp_path_factory.mktemp("shown") / "run", {"loss": loss, "lr": rate, "grad_norm": 1 + noise(0.1, 400)}
    )
    write_checkpoints(run, {100: 1.0})
    opened = open_run(run)
    incidents = detect(opened)
    return Case(opened, next(i for i in incidents if abs(i.onset_step - ONSET) <= 1), incidents)


def with_replays(case: Case, shown: Shown) -> Case:
    case = copy.copy(case)
    case.shown = shown
    return case


def rates(*cured: float, failed: tuple[float, ...] = ()) -> Shown:
    cures, failures = ([Change("lr-scale", values=(factor,)) for factor in factors] for factors in (cured, failed))
    return Shown(tuple(cures), tuple(failures))


def test_proven_batches_are_skipped_although_their_reason_is_open(spiked: Case) -> None:
    case = with_replays(spiked, Shown((Change("replace", (BATCHES,)),), carried=(BATCHES,)))
    first, *others = cautious_remedies(case, LR_TOO_HIGH, case.batch_window())
    assert f"without batches [{BATCHES[0]}, {BATCHES[1]})" in first.text and not first.declined
    assert "moved, they take the incident along" in first.text
    assert not any(remedy.declined or "Change nothing" in remedy.text for remedy in others)
    advised = lesson(fact_without_cause(case), (first, *others))
    assert "cause the loss spike" in advised and "look at the samples" in advised


def test_the_rate_that_cured_is_advised_and_the_one_that_did_not_is_named(spiked: Case) -> None:
    case = with_replays(spiked, rates(0.1, 0.02, failed=(0.5,)))
    remedy = LR_TOO_HIGH.remedies(case, {})[0]
    assert "to 0.1 of it, 0.0004 instead of 0.004 at the onset" in remedy.text and "with 0.5 of it not" in remedy.text
    assert LR_TOO_HIGH.fix is not None
    assert LR_TOO_HIGH.fix(suspect_for(case, LR_TOO_HIGH, {})) == (Change("lr-scale", values=(0.1,)),)
    assert cautious_remedies(case, None, case.batch_window())[0] == remedy


def test_without_replays_it_is_half_of_the_rate_at_the_onset_and_not_of_the_baseline(spiked: Case) -> None:
    assert (
        "Halve the peak learning rate (0.002 instead of 0.004 at the onset)" in LR_TOO_HIGH.remedies(spiked, {})[0].text
    )
    assert "0.004" in LR_TOO_HIGH.root_cause_sentence(spiked, {})
    assert suspect_for(spiked, LR_TOO_HIGH, {}).rate == 0.5


def test_any_other_cure_is_repeated(spiked: Case) -> None:
    case = with_replays(spiked, Shown((Change("precision", values=("fp32",)),)))
    first, *_ = cautious_remedies(case, None, case.batch_window())
    assert "what cured the incident in a replay" in first.text and "fp32" in first.text


def test_a_slower_run_is_held_to_the_loss_that_it_can_have_reached(spiked: Case) -> None:
    """With a tenth of the rate from step 100 on, it is at the onset where the faster run was at step 116."""
    expected = verification(spiked)
    half, slower = (verification(spiked, None, (Change("lr-scale", values=(share,)),)) for share in (0.5, 0.1))
    for check, step in ((expected, 258), (half, 178), (slower, 114)):
        assert check.baseline_loss == pytest.approx(3 + 2 * np.exp(-step / 150), abs=0.08)  # an average lags behind
    assert slower.baseline_loss is not None
    assert all(
        check.bound is None or check.bound > slower.baseline_loss for check in slower.checks if check.column == "loss"
    )
    skipped = verification(spiked, None, (Change("skip", (BATCHES,)),))
    assert skipped == expected


def test_an_undecided_incident_teaches_what_to_record_or_nothing(spiked: Case, tmp_path: Path) -> None:
    case = with_replays(spiked, NOTHING)
    advised = lesson(fact_without_cause(case), cautious_remedies(case, None, case.batch_window()))
    assert "log batch_hash" in advised
