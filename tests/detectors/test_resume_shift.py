"""A loss that is higher after a resume: small shifts are found there, and clean resumes stay quiet."""

from __future__ import annotations

import numpy as np
import pytest

from postmortem.detectors import find_incidents
from postmortem.detectors.resume_shift import DETECTOR
from tests.detectors.helpers import findings, telemetry

RESUME, ROWS = 3_000, 4_300


def _noisy(seed: int, sigma: float = 0.25) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 0.0095 * np.exp(sigma * rng.standard_normal(ROWS)) * (1 + 0.3 * np.exp(-np.arange(ROWS) / 300))


@pytest.mark.parametrize("lasting", [True, False])
def test_a_shift_that_no_search_sees_is_found_at_the_resume(lasting: bool) -> None:
    found = 0
    for seed in range(20):
        since = np.arange(ROWS) - RESUME
        rise = 1 + np.where(since < 0, 0.0, 0.25 if lasting else 0.25 * np.exp(-since / 400))
        t = telemetry(loss=_noisy(seed) * rise, restarts=(RESUME,))
        shifts = [f for f in findings(t, "level_shift") if f.detector == "resume_shift"]
        assert all(f.onset_step == RESUME for f in shifts)
        assert not lasting or all(f.outcome == "lingering" for f in shifts)
        found += bool(shifts)
    assert found >= (15 if lasting else 10)


@pytest.mark.parametrize("seed", range(40))
def test_clean_resumes_stay_quiet(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wave = 1 + 0.05 * np.sin(np.arange(ROWS) / rng.uniform(20, 800))
    loss = _noisy(seed, float(rng.choice([0.02, 0.1, 0.25]))) * wave
    t = telemetry(loss=loss, restarts=tuple(sorted(rng.integers(300, ROWS, 4).tolist())))
    assert not list(DETECTOR.findings(t))


def test_a_log_that_ends_soon_after_the_resume_is_unresolved() -> None:
    t = telemetry(
        loss=_noisy(0, 0.02)[: RESUME + 60] * (1 + 0.2 * (np.arange(RESUME + 60) >= RESUME)), restarts=(RESUME,)
    )
    (f,) = DETECTOR.findings(t)
    assert f.outcome == "unresolved"


def test_without_a_resume_there_is_none() -> None:
    assert not findings(telemetry(loss=_noisy(0)), "level_shift") and find_incidents(telemetry(loss=_noisy(0))) == ()
