"""Changes of a log that must not change its incidents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postmortem.detectors import DetectedIncident, find_incidents
from tests.detectors.helpers import any_values, telemetry
from tests.detectors.scenarios import FAULTS, scenario

pytestmark = pytest.mark.heavy


def _steps(incidents: tuple[DetectedIncident, ...]) -> list[tuple[str, int, int, int | None, str]]:
    return [(i.kind, i.onset_step, i.peak_step, i.recovery_step, i.outcome) for i in incidents]


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(FAULTS), st.integers(0, 1000), st.floats(1e-6, 1e6))
def test_scaling_the_loss_changes_nothing(name: str, seed: int, factor: float) -> None:
    loss, _ = scenario(name, seed)
    assert _steps(find_incidents(telemetry(loss=loss * factor))) == _steps(find_incidents(telemetry(loss=loss)))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.integers(-20, 20))
def test_scaling_a_signed_loss_changes_nothing(seed: int, power: int) -> None:
    loss = 0.1 * np.random.default_rng(seed).standard_normal(1500)
    loss[900:904] += 3.0
    incidents = find_incidents(telemetry(loss=loss))
    assert incidents[0].onset_step == 900, "noise alone opens one in some 200,000 rows: never the gravest"
    assert _steps(find_incidents(telemetry(loss=loss * 2.0**power))) == _steps(incidents)


@settings(max_examples=6, deadline=None)
@given(st.sampled_from(FAULTS), st.integers(0, 1000), st.text(min_size=1, max_size=8))
def test_unknown_columns_change_nothing(name: str, seed: int, column: str) -> None:
    loss, _ = scenario(name, seed)
    noise = np.random.default_rng(seed).standard_cauchy(loss.size)
    plain = telemetry(loss=loss)
    extra = telemetry(**{"loss": loss, f"my own {column}".replace("__", "_"): noise})
    assert _steps(find_incidents(extra)) == _steps(find_incidents(plain))


@settings(max_examples=100, deadline=None)
@given(any_values(120), st.integers(1, 50))
def test_any_values_at_all_give_ordered_steps(values: list[float], every: int) -> None:
    t = telemetry(every=every, **dict.fromkeys(("loss", "grad_norm", "lr", "adam_v_norm", "param_norm"), values))
    for incident in find_incidents(t):
        assert incident.onset_step <= incident.peak_step
        assert incident.recovery_step is None or incident.recovery_step > incident.onset_step
        for f in incident.findings:
            assert f.onset_step >= incident.onset_step
