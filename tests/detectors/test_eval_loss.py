"""An evaluation loss that leaves alone, and one that overfits."""

from __future__ import annotations

import numpy as np
import pytest

from postmortem.detectors import Telemetry, find_incidents
from postmortem.series import Series
from tests.detectors.helpers import decline, only
from tests.detectors.live_runs import follow, offline

LEAVES = (6.91, 5.87, 5.40, 5.01, 4.66, 4.47, 27.0, 13.8, 35.9, 652.9)


def _run(evaluations: np.ndarray, every: int = 50) -> Telemetry:
    """A calm train loss at each step, and its evaluations."""
    rows = evaluations.size * every
    series = {
        "loss": Series("loss", np.arange(rows), decline(rows)),
        "eval_loss": Series("eval_loss", np.arange(1, rows, every), evaluations.astype(float)),
    }
    return Telemetry(series.get, tuple(series), np.arange(rows), lambda _: None)


@pytest.mark.parametrize("rows", [7, 8, 10])
def test_it_leaves_while_the_train_loss_is_calm(rows: int) -> None:
    incident = only(_run(np.array(LEAVES[:rows])))
    assert (incident.kind, incident.onset_interval, incident.outcome) == ("eval_loss_rise", (251, 301), "unresolved")
    assert incident.severity > 4


@pytest.mark.parametrize("level", [0.0, -4.3])
def test_a_level_that_is_not_positive_has_no_ratio_and_yet_a_size(level: float) -> None:
    incident = only(_run(np.append(np.full(25, level), np.full(10, 5.0)), every=2))
    assert (incident.kind, incident.onset_step) == ("eval_loss_rise", 51)
    assert 5 < incident.severity < 6 and np.isnan(incident.findings[0].figures["ratio"])


@pytest.mark.parametrize(("before", "after"), [(2.0, 2.9), (0.1, 0.39), (-4.3, 5.0)])
def test_a_small_or_signed_one_that_leaves_its_noise_is_found(before: float, after: float) -> None:
    evaluations = before + 0.005 * np.random.default_rng(0).standard_normal(40)
    evaluations[25:] += after - before
    incident = only(_run(evaluations, every=2))
    assert (incident.kind, incident.onset_step, incident.outcome) == ("eval_loss_rise", 51, "diverged")


@pytest.mark.parametrize("factor", [1.2, 1.4, 1.6])
def test_it_leaves_in_many_small_steps(factor: float) -> None:
    calm = 2.4 * np.exp(0.02 * np.random.default_rng(0).standard_normal(30))
    incident = only(_run(np.append(calm, 2.5 * factor ** np.arange(1, 16)), every=2))
    assert (incident.kind, incident.outcome) == ("eval_loss_rise", "diverged")
    assert 57 <= incident.onset_step <= 61


def test_it_diverged_where_it_stays_and_recovered_where_it_is_back() -> None:
    assert only(_run(np.append(LEAVES, [300.0]))).outcome == "diverged"
    back = only(_run(np.append(LEAVES, [4.5, 4.4])))
    assert (back.outcome, back.peak_step, back.recovery_step) == ("recovered", 451, 501)


def test_one_that_is_not_finite_is_an_incident_at_once() -> None:
    incident = only(_run(np.array([5.0, 4.0, np.nan, np.nan])))
    assert (incident.kind, incident.onset_step) == ("non_finite", 101)


@pytest.mark.parametrize("seed", range(60))
def test_overfitting_and_noise_are_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    row = np.arange(40)
    falls = 2 + 4 * np.exp(-row / rng.uniform(1, 10))
    overfits = falls + rng.uniform(0, 0.15) * np.maximum(row - 15, 0)
    evaluations = overfits * np.exp(rng.uniform(0, 0.15) * rng.standard_normal(40))
    assert find_incidents(_run(evaluations)) == ()


def test_two_sets_in_turn_under_one_name_are_none() -> None:
    evaluations = np.where(np.arange(40) % 2, 1.2, 3.5) + 0.05 * np.random.default_rng(0).standard_normal(40)
    assert find_incidents(_run(evaluations)) == ()


@pytest.mark.parametrize("seed", range(30))
def test_row_by_row_it_is_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    evaluations = 3 * np.exp(0.1 * rng.standard_normal(60))
    for at in rng.integers(0, 60, 3):
        evaluations[at : at + rng.integers(1, 10)] *= rng.uniform(1.5, 20)
    t = _run(evaluations, every=3)
    assert follow(t, ["eval_loss_rise"]).settled == offline(t, ["eval_loss_rise"])
