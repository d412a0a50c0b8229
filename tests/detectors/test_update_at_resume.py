"""An update that other moments made in the first row after a resume, and all that only looks like it."""

from __future__ import annotations

import numpy as np
import pytest

from postmortem.detectors.update_at_resume import DETECTOR
from tests.detectors.helpers import decline, telemetry

ROWS, RESUME = 400, 250


def update(seed: int, sigma: float, level: float = 0.2) -> np.ndarray:
    return level * np.exp(sigma * np.random.default_rng(seed).standard_normal(ROWS))


def reset(factor: float, rows: float) -> np.ndarray:
    """What lost moments make of the update, as a factor: `factor` at the resume, back within about `rows` rows."""
    since = np.arange(ROWS) - RESUME
    return np.where(since < 0, 1.0, factor ** np.exp(-np.maximum(since, 0) / rows))


@pytest.mark.parametrize(
    ("factor", "sigma"),
    [(3.16, 0.05), (0.45, 0.05), (0.1, 0.1), (1.5, 0.02), (0.96, 0.0)],
    ids=["v lost", "v lost, β2 = 0.95", "momentum lost", "a little", "a sign's momentum"],
)
def test_lost_moments_are_found_in_the_first_row(factor: float, sigma: float) -> None:
    for seed in range(5):
        columns = {"update_rms": update(seed, sigma) * reset(factor, 10), "grad_norm": update(seed + 9, 0.1, 2.0)}
        (f,) = DETECTOR.findings(telemetry(loss=decline(ROWS, seed), restarts=(RESUME,), **columns))
        assert (f.kind, f.column, f.onset_step) == ("optimizer_state_discontinuity", "update_rms", RESUME)
        assert f.outcome == "recovered" and f.recovery_step is not None and f.recovery_step < RESUME + 40


def test_a_gradient_that_departs_with_it_explains_it() -> None:
    jump = reset(3.0, 5)
    columns = {"update_rms": update(1, 0.05) * jump, "grad_norm": update(2, 0.1, 2.0) * jump}
    assert not list(DETECTOR.findings(telemetry(loss=decline(ROWS), restarts=(RESUME,), **columns)))


def test_resumes_that_restore_all_are_quiet() -> None:
    chance = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        trend = np.exp(rng.uniform(-1, 1) * np.arange(ROWS) / ROWS)
        columns = {"update_rms": update(seed, float(rng.choice([0.01, 0.05, 0.3]))) * trend}
        chance += len(list(DETECTOR.findings(telemetry(restarts=(100, RESUME, 380), **columns))))
    assert chance <= 6  # of 600


def test_without_a_resume_there_is_nothing_to_compare() -> None:
    assert not list(DETECTOR.findings(telemetry(update_rms=update(0, 0.05) * reset(3.0, 10))))
