"""Onset, peak, recovery and outcome of whole incidents."""

from __future__ import annotations

import numpy as np
import pytest

from postmortem.detectors import find_incidents
from tests.detectors.helpers import calm_norm, decline, only, telemetry

BLOOM_LOSS = (2.199, 2.220, 2.595, 2.242, 2.345, 5.098, 3.492, 3.213, 2.805)
BLOOM_NORM = (0.242, 0.947, 2.39, 15.9, 145, 960, 353, 379, 650)


def worked_example(sigma: float, shape: str = "linear") -> tuple[np.ndarray, np.ndarray]:
    """Seed 003: grad norm 47.2 at 312, loss 5.84 at 313, 3.40 from 360 on, 2.31 before."""
    rng = np.random.default_rng(0)
    loss = 2.31 + sigma * rng.standard_normal(600)
    fall = np.linspace(5.84, 3.40, 48) if shape == "linear" else np.geomspace(5.84, 3.40, 48)
    loss[313:361] = fall
    loss[361:] = 3.40 + sigma * rng.standard_normal(239)
    norm = 0.6 * np.exp((0.0 if sigma == 0 else 0.1) * rng.standard_normal(600))
    norm[312] = 47.2
    return loss, norm


@pytest.mark.parametrize("shape", ["linear", "geometric"])
@pytest.mark.parametrize("sigma", [0.0, 0.005, 0.01])
def test_the_worked_example(sigma: float, shape: str) -> None:
    loss, norm = worked_example(sigma, shape)
    incident = only(telemetry(loss=loss, grad_norm=norm))
    assert (incident.kind, incident.outcome) == ("loss_spike", "lingering")
    assert (incident.onset_step, incident.peak_step) == (312, 313)
    assert incident.recovery_step is not None and abs(incident.recovery_step - 360) <= (0 if sigma == 0 else 1)
    first, loss_finding = incident.findings[0], next(f for f in incident.findings if f.column == "loss")
    assert (first.column, first.peak) == ("grad_norm", 47.2)
    assert first.baseline == pytest.approx(0.6, rel=0.05)
    assert (loss_finding.onset_step, loss_finding.peak) == (313, 5.84)
    assert loss_finding.settled == pytest.approx(3.40, abs=0.01)


def test_bloom_gradient_leads_the_loss() -> None:
    rng = np.random.default_rng(0)
    loss, norm = 2.2 + 0.02 * rng.standard_normal(3000), 0.24 + 0.03 * rng.standard_normal(3000)
    loss[2000:2009], norm[2000:2009] = BLOOM_LOSS, BLOOM_NORM
    loss[2009:2039] += 0.6 * np.exp(-np.arange(30) / 8)
    incident = only(telemetry(loss=loss, grad_norm=norm))
    (gradient,) = [f for f in incident.findings if f.kind == "grad_norm_spike"]
    assert (incident.onset_step, incident.peak_step) == (2001, 2005)
    assert incident.peak_step - gradient.onset_step >= 3
    assert incident.outcome == "recovered"
    assert incident.recovery_step is not None and 2015 <= incident.recovery_step <= 2040


def test_a_nan_that_stays_diverged_and_comes_first() -> None:
    loss = decline(600)
    loss[200] += 1.0
    loss[400:] = np.nan
    worst, other = find_incidents(telemetry(loss=loss))
    assert (worst.kind, worst.outcome, worst.onset_step, worst.peak_step) == ("non_finite", "diverged", 400, 400)
    assert worst.recovery_step is None
    assert other.onset_step == 200


def test_a_blow_up_to_nan_is_one_incident() -> None:
    loss = decline(600)
    loss[390:400] = 2.4 * np.exp(np.arange(10) / 4)
    loss[400:] = np.inf
    incident = only(telemetry(loss=loss))
    assert (incident.kind, incident.outcome, incident.peak_step) == ("non_finite", "diverged", 400)
    assert 390 <= incident.onset_step <= 392


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nothing_but_nan_from_the_first_row(value: float) -> None:
    incident = only(telemetry(loss=np.full(50, value)))
    assert (incident.kind, incident.onset_step, incident.onset_interval, incident.outcome) == (
        "non_finite",
        0,
        None,
        "diverged",
    )


def test_a_log_that_ends_after_the_peak_is_unresolved() -> None:
    loss = decline(600)
    loss[580:] += 1.5
    incident = only(telemetry(loss=loss))
    assert (incident.onset_step, incident.outcome, incident.recovery_step) == (580, "unresolved", None)


@pytest.mark.parametrize(("rows", "outcome"), [(30, "unresolved"), (120, "diverged")])
def test_a_loss_that_still_rises_diverged_once_it_was_up_by_half_for_long(rows: int, outcome: str) -> None:
    loss = decline(600)
    loss[600 - rows :] += np.minimum(np.linspace(0.5, 8, rows), 0.1 + 0.3 * np.arange(rows))
    incident = only(telemetry(loss=loss))
    assert (incident.outcome, incident.recovery_step) == (outcome, None)


def test_every_tenth_step_makes_the_onset_an_interval() -> None:
    loss, norm = decline(600), calm_norm(600)
    loss[400:420] += 1.5 * np.exp(-np.arange(20) / 5)
    norm[400] *= 20
    incident = only(telemetry(loss=loss, grad_norm=norm, every=10))
    assert (incident.onset_step, incident.onset_interval) == (4000, (3990, 4000))


def test_noise_free_runs() -> None:
    step = np.arange(600)
    loss = 2.3 + 3.5 * np.exp(-step / 80)
    assert find_incidents(telemetry(loss=loss)) == ()
    loss[400] += 0.5
    incident = only(telemetry(loss=loss))
    assert (incident.onset_step, incident.peak_step, incident.recovery_step) == (400, 400, 401)


def test_a_staircase_of_epochs_goes_down_and_is_no_incident() -> None:
    rng = np.random.default_rng(0)
    loss = np.repeat([2.0, 1.6, 1.3, 1.1], 200) + 0.05 * rng.standard_normal(800)
    assert find_incidents(telemetry(loss=loss)) == ()


def test_a_second_spike_is_seen_after_a_long_first_one() -> None:
    loss = decline(900)
    loss[400:440] += 2 * np.exp(-np.arange(40) / 12)
    loss[460] += 1.0
    assert sorted(i.onset_step for i in find_incidents(telemetry(loss=loss))) == [400, 460]


def test_what_moves_between_a_cause_and_its_loss_belongs_to_them() -> None:
    loss, rms = decline(600), 0.2 * np.exp(0.03 * np.random.default_rng(2).standard_normal(600))
    hashes = [f"b{max(i - 40, 300) if 300 <= i < 340 else i}" for i in range(600)]
    rms[302:310] *= 2.5
    loss[340:360] += 1.0
    incident = only(telemetry(loss=loss, update_rms=rms, labels={"batch_hash": hashes}))
    assert (incident.kind, incident.onset_step, incident.peak_step // 20) == ("loss_spike", 301, 17)
    assert [f.kind for f in incident.findings] == ["repeated_batch", "update_rms_spike", "loss_spike"]


def test_an_empty_run_has_no_incident() -> None:
    assert find_incidents(telemetry(loss=[])) == ()


def test_a_constant_column_is_a_missing_panel() -> None:
    assert find_incidents(telemetry(loss=decline(300), grad_norm=np.zeros(300), loss_scale=np.full(300, -1.0))) == ()
