"""Robust scales: right on Gaussian noise, unmoved by outliers, and equal to their formulas."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from postmortem.stats import SIGMA_PER_MAD, noise_sigma, robust_sigma

Scale = Callable[[np.ndarray], float]

DRAWS = 200_000
"""With as many draws, both estimates are within 1 % of sigma: their standard errors are about 1.17 and 1.4 / √n."""


@pytest.fixture
def gaussian() -> np.ndarray:
    return np.random.default_rng(7).normal(5.0, 2.0, DRAWS)


def test_the_factor_is_that_of_a_gaussian() -> None:
    assert pytest.approx(1 / NormalDist().inv_cdf(0.75), rel=5e-5) == SIGMA_PER_MAD


def test_both_are_the_standard_deviation_of_gaussian_noise(gaussian: np.ndarray) -> None:
    assert robust_sigma(gaussian) == pytest.approx(2.0, rel=0.01)
    assert noise_sigma(gaussian) == pytest.approx(2.0, rel=0.01)


def test_robust_sigma_is_its_formula() -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])  # median 4, deviations 3, 2, 0, 4, 12
    assert robust_sigma(values) == SIGMA_PER_MAD * 3
    assert robust_sigma(values, 0.0) == SIGMA_PER_MAD * 4
    assert robust_sigma(np.array([3.0])) == 0.0


def test_noise_sigma_is_its_formula() -> None:
    values = np.array([0.0, 1.0, -1.0, 4.0])  # differences 1, -2, 5
    assert noise_sigma(values) == pytest.approx(SIGMA_PER_MAD * 2 / np.sqrt(2), rel=1e-15)


def test_noise_sigma_ignores_a_trend(gaussian: np.ndarray) -> None:
    assert noise_sigma(gaussian + 1e-3 * np.arange(DRAWS)) == pytest.approx(2.0, rel=0.01)
    assert robust_sigma(gaussian + 1e-3 * np.arange(DRAWS)) > 20


@pytest.mark.parametrize("sigma", [robust_sigma, noise_sigma])
def test_outliers_do_not_move_it(sigma: Scale, gaussian: np.ndarray) -> None:
    spoiled = gaussian.copy()
    spoiled[:: DRAWS // 100] = 1e12
    assert sigma(spoiled) == pytest.approx(sigma(gaussian), rel=0.01)
    assert np.std(spoiled) > 1e9


@pytest.mark.parametrize("sigma", [robust_sigma, noise_sigma])
def test_a_float32_column_gives_a_float(sigma: Scale, gaussian: np.ndarray) -> None:
    single = sigma(gaussian.astype(np.float32))
    assert type(single) is float and single == pytest.approx(sigma(gaussian), rel=1e-4)


@pytest.mark.parametrize("sigma", [robust_sigma, noise_sigma])
def test_a_shift_does_not_change_it_and_a_factor_scales_it(sigma: Scale, gaussian: np.ndarray) -> None:
    assert sigma(gaussian + 100) == pytest.approx(sigma(gaussian))
    assert sigma(-3 * gaussian) == pytest.approx(3 * sigma(gaussian))
