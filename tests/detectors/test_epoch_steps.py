"""A loss that steps with each epoch is one thing, by whatever the log says where epochs begin."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from postmortem.detectors import Telemetry, find_incidents
from postmortem.detectors._epochs import epoch_starts
from postmortem.series import Series
from tests.detectors.helpers import findings, telemetry

EPOCHS, LENGTH = 5, 120
ROWS = EPOCHS * LENGTH
STEP = np.arange(ROWS)
STARTS = [LENGTH * i for i in range(1, EPOCHS)]


def _sawtooth(rise: float, seed: int = 0) -> np.ndarray:
    noise = 0.03 * np.random.default_rng(seed).standard_normal(ROWS)
    return 3 - 0.3 * (STEP // LENGTH) + rise * (STEP % LENGTH) / LENGTH + noise


def _with_epoch(t: Telemetry, epoch: np.ndarray) -> Telemetry:
    return dataclasses.replace(t, epoch=Series("epoch", t.row_steps, epoch.astype(float)))


@pytest.mark.parametrize("epoch", [STEP // LENGTH, STEP / LENGTH, 1 + STEP // LENGTH], ids=["whole", "part", "from 1"])
def test_a_sawtooth_is_told_as_one_from_the_first_border_on(epoch: np.ndarray) -> None:
    incident = find_incidents(_with_epoch(telemetry(loss=_sawtooth(0.25)), epoch))[0]
    assert (incident.kind, incident.onset_step, incident.outcome) == ("epoch_steps", LENGTH, "lingering")
    (f,) = incident.findings
    assert (f.figures["steps"], f.figures["starts"], f.figures["period_rows"]) == (4, 4, LENGTH)


def test_the_period_is_that_of_the_epochs_where_the_loss_does_not_step_at_each() -> None:
    step, levels = np.arange(4 * LENGTH), np.array([3.0, 2.5, 2.6, 2.1])  # it goes on rising from the second epoch
    ramp = 0.1 * (step % LENGTH) / LENGTH
    loss = levels[step // LENGTH] + ramp + 0.01 * np.random.default_rng(0).standard_normal(step.size)
    (f,) = findings(_with_epoch(telemetry(loss=loss), step // LENGTH), "epoch_steps")
    assert (f.figures["steps"], f.figures["starts"], f.figures["period_rows"]) == (2, 3, LENGTH)


def test_the_index_of_the_batch_tells_epochs_and_a_resume_does_not() -> None:
    index = STEP % LENGTH
    assert find_incidents(telemetry(loss=_sawtooth(0.25), batch_index=index))[0].kind == "epoch_steps"
    series = Series("batch_index", STEP, index.astype(float))
    assert epoch_starts(None, series).tolist() == STARTS
    assert epoch_starts(None, series, STARTS[:1]).tolist() == STARTS[1:]


def test_a_model_that_remembers_the_data_falls_in_stairs_and_that_is_no_incident() -> None:
    assert find_incidents(_with_epoch(telemetry(loss=_sawtooth(0.0)), STEP // LENGTH)) == ()


@pytest.mark.parametrize("seed", range(20))
def test_epochs_that_the_loss_does_not_notice_are_quiet(seed: int) -> None:
    noise = 0.05 * np.random.default_rng(seed).standard_normal(ROWS)
    wave = 0.1 * np.sin(STEP / (7 + 3 * seed))
    loss = 2 + 2 * np.exp(-STEP / 60) + wave + noise
    assert not [i for i in find_incidents(_with_epoch(telemetry(loss=loss), STEP // LENGTH)) if i.kind == "epoch_steps"]


def test_steps_that_are_not_at_the_borders_are_not_the_epochs() -> None:
    found = find_incidents(_with_epoch(telemetry(loss=_sawtooth(0.25)), (STEP + LENGTH // 2) // LENGTH))
    assert "epoch_steps" not in {i.kind for i in found}
