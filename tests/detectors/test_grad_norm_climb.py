"""A gradient norm that climbs evenly, and what only looks like it."""

from __future__ import annotations

import numpy as np
import pytest

from postmortem.detectors import find_incidents
from tests.detectors.helpers import calm_norm, decline, findings, telemetry

ROWS = 600


@pytest.mark.parametrize(("every", "begin"), [(1, 150), (1, 300), (10, 300)])
def test_an_exponential_climb_is_one(every: int, begin: int) -> None:
    """112 times in 260 steps: 1.8 % from step to step."""
    norm = calm_norm(ROWS)
    norm[begin:] *= 112 ** (np.minimum(np.arange(ROWS - begin), 260) / 260)
    t = telemetry(loss=decline(ROWS)[::every], grad_norm=norm[::every], every=every)
    (f,) = findings(t, "grad_norm_climb")
    assert abs(f.onset_step - begin) <= 40
    assert f.peak > 50 * f.baseline


@pytest.mark.parametrize("shape", ["early", "step", "spike", "wave", "five times"])
def test_what_is_no_climb(shape: str) -> None:
    step, norm = np.arange(ROWS), np.exp(0.2 * np.random.default_rng(0).standard_normal(ROWS))
    norm *= {
        "early": np.minimum((step + 1) / 150, 1),
        "step": np.where(step < 300, 1, 40),
        "spike": 1 + 60 * np.exp(-np.maximum(step - 300, 0) / 40) * (step >= 300),
        "wave": np.exp(1.2 * np.sin(step / 40)),
        "five times": 5 ** (step / ROWS),
    }[shape]
    assert findings(telemetry(grad_norm=norm), "grad_norm_climb") == []


def test_a_climb_without_its_loss_is_an_incident_of_its_own() -> None:
    norm = calm_norm(ROWS)
    norm[200:460] *= 112 ** (np.arange(260) / 260)
    norm[460:] *= 112
    (incident, *_) = find_incidents(telemetry(loss=decline(ROWS), grad_norm=norm))
    assert incident.kind == "grad_norm_climb"
