"""The detector scenarios, 20 seeds each."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from postmortem.detectors import DetectedIncident, find_incidents
from tests.detectors.helpers import telemetry
from tests.detectors.scenarios import FAULTS, SCENARIOS, alarm_lag, at_fault, scenario

pytestmark = pytest.mark.heavy
SHARED = Path(__file__).parents[3] / "shared" / "detector_scenarios.py"
SEEDS = range(20)
LARGEST_LAG = {"slow_divergence": 60}


@cache
def incidents(name: str, seed: int) -> tuple[DetectedIncident, ...]:
    return find_incidents(telemetry(loss=scenario(name, seed)[0]))


@pytest.mark.skipif(not SHARED.exists(), reason="the shared scenarios are not here")
@pytest.mark.parametrize("name", SCENARIOS)
def test_own_generator_equals_the_shared_one(name: str) -> None:
    spec = importlib.util.spec_from_file_location("shared_scenarios", SHARED)
    assert spec is not None and spec.loader is not None
    shared = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shared)
    for seed in (0, 7):
        theirs, fault = shared.scenario(name, seed)
        ours, own_fault = scenario(name, seed)
        np.testing.assert_array_equal(ours, theirs)
        assert own_fault == fault


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_found_where_it_is(name: str) -> None:
    for seed in SEEDS:
        _, fault = scenario(name, seed)
        assert fault is not None
        at_onset = at_fault(incidents(name, seed), fault)
        assert len(at_onset) == 1, f"seed {seed}: {at_onset}"
        if name != "slow_divergence":
            assert at_onset[0].onset_step == fault, f"seed {seed}"


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_else_is_found(name: str) -> None:
    others = {"spike_after_nan": 1, "second_spike": 1}.get(name, 0)
    for seed in SEEDS:
        assert len(incidents(name, seed)) == 1 + others, f"seed {seed}"


@pytest.mark.parametrize(
    ("name", "kind", "outcome"),
    [
        ("one_step", "loss_spike", "recovered"),
        ("decaying", "loss_spike", "recovered"),
        ("slow_divergence", "divergence", "diverged"),
        ("level_shift", "level_shift", "lingering"),
    ],
)
def test_kind_and_outcome(name: str, kind: str, outcome: str) -> None:
    for seed in SEEDS:
        (incident,) = incidents(name, seed)
        assert (incident.kind, incident.outcome) == (kind, outcome), f"seed {seed}"


def test_clean_gaussian_noise_raises_nothing() -> None:
    for seed in SEEDS:
        assert incidents("clean_gaussian", seed) == ()


def test_heavy_tailed_noise_raises_less_than_one_in_two_runs() -> None:
    counts = [len(incidents("clean_t4", seed)) for seed in SEEDS]
    assert np.mean(counts) <= 0.5


@pytest.mark.parametrize("name", FAULTS)
def test_alarm_lag(name: str) -> None:
    for seed in range(4):
        loss, fault = scenario(name, seed)
        assert fault is not None
        lag = alarm_lag(loss, fault)
        assert lag is not None and lag <= LARGEST_LAG.get(name, 5), f"seed {seed}: {lag}"
