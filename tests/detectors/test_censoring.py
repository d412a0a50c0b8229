"""What a log cannot say raises no false incident: smoothed losses, and losses near zero. A blow-up in them is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from postmortem.detectors import find_incidents
from postmortem.detectors._screen import screened_column
from postmortem.series import Series
from tests.detectors.helpers import telemetry

SEEDS = range(8)


def smoothed(raw: np.ndarray, decay: float) -> np.ndarray:
    """The exponential average that loggers print, without the bias of its first rows."""
    out, mean = np.empty_like(raw), 0.0
    for i, value in enumerate(raw.tolist()):
        mean = decay * mean + (1 - decay) * value
        out[i] = mean / (1 - decay ** (i + 1))
    return out


def _noisy(seed: int, sigma: float, rows: int = 3_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 3 + 8 * np.exp(-np.arange(rows) / rng.uniform(50, 400)) + sigma * rng.standard_normal(rows)


@pytest.mark.parametrize("decay", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("sigma", [0.03, 0.3])
def test_a_smoothed_loss_raises_nothing_and_hides_no_spike(decay: float, sigma: float) -> None:
    for seed in SEEDS:
        raw = _noisy(seed, sigma)
        assert find_incidents(telemetry(loss=smoothed(raw, decay))) == (), f"seed {seed}"
        raw[2_000:2_030] += 6.0
        (incident,) = find_incidents(telemetry(loss=smoothed(raw, decay)))
        assert incident.onset_step <= 2_010 and 2_000 <= incident.peak_step <= 2_040, f"seed {seed}"


@pytest.mark.parametrize(("decay", "is_smoothed"), [(0.0, False), (0.2, False), (0.9, True), (0.99, True)])
def test_smoothing_is_seen_in_the_noise(decay: float, is_smoothed: bool) -> None:
    for seed in SEEDS:
        s = screened_column(Series("loss", np.arange(3_000), smoothed(_noisy(seed, 0.5), decay)))
        assert s is not None and s.smoothed is is_smoothed


def test_a_short_loss_that_wanders_is_judged_by_its_noise() -> None:
    """Also after first rows of any size."""
    rng = np.random.default_rng(0)
    loss = 4.5 * np.exp(0.05 * rng.standard_normal(124) + 0.2 * np.sin(np.arange(124) / 15))
    loss[:9] = 1e4, 5.2, 4.3, 3.0, 170.0, 870.0, 4e4, 2e5, 3e10
    loss[82] = 11.5
    assert any(i.onset_step == 82 for i in find_incidents(telemetry(loss=loss)))


NEAR_ZERO: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "four decimals": lambda rng, n: np.round(3e-4 * rng.standard_t(2.5, n), 4),
    "a KL term that grows": lambda rng, n: np.round(np.abs(3e-4 * rng.standard_t(3, n)) + np.linspace(0, 1e-3, n), 4),
    "all digits": lambda rng, n: 1e-3 * rng.standard_t(2.5, n),
    "larger": lambda rng, n: 0.01 + 0.02 * rng.standard_t(3, n),
}


@pytest.mark.parametrize("name", NEAR_ZERO)
def test_a_loss_near_zero_raises_nothing_and_hides_no_blow_up(name: str) -> None:
    for seed in SEEDS:
        loss = NEAR_ZERO[name](np.random.default_rng(seed), 2_000)
        assert find_incidents(telemetry(loss=loss)) == (), f"seed {seed}"
        loss[1_200:1_210] += 5.0
        (incident,) = find_incidents(telemetry(loss=loss))
        assert incident.onset_step <= 1_200 <= incident.peak_step < 1_210, f"seed {seed}"


def test_a_loss_with_zeros_of_a_filter_is_not_near_zero() -> None:
    loss = np.round(_noisy(0, 0.03, 600), 4)
    loss[500:] = 0.0
    s = screened_column(Series("loss", np.arange(600), loss))
    assert s is not None and not s.near_zero
