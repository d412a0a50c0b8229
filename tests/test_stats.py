"""Robust scales: right on Gaussian noise, unmoved by outliers, and equal to their formulas."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postmortem.stats import SIGMA_PER_MAD, median, noise_sigma, recent_level, robust_sigma, rounding_sigma

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


class TestLevel:
    """The level at the end of some rows."""

    def test_neither_the_first_row_nor_an_earlier_spike_moves_it(self) -> None:
        rows = np.random.default_rng(1).normal(4.6, 0.3, 90)
        calm = recent_level(rows).value
        rows[0], rows[30:33] = 1e10, 1e7
        assert recent_level(rows).value == pytest.approx(calm, abs=0.1)

    @pytest.mark.parametrize("rows", [8, 21, 60, 200])
    def test_it_follows_a_loss_that_falls(self, rows: int) -> None:
        loss = 2.0 + 8.0 * np.exp(-np.arange(rows) / 15) + np.random.default_rng(2).normal(0, 0.01, rows)
        assert loss[-10:].min() - 0.02 <= recent_level(loss).value <= loss[-10:].max() + 0.02

    def test_it_says_how_it_was_measured(self) -> None:
        level = recent_level(np.full(200, 2.31))
        assert level.averaged and level.rows == 50 and level.value == pytest.approx(2.31) and level.ratio(4.62) == 2.0
        few = recent_level(np.array([9.3, 4.7]))
        assert not few.averaged and few.rows == 2 and few.value == 7.0

    @pytest.mark.parametrize("seed", range(5))
    def test_a_level_in_its_noise_has_no_ratio(self, seed: int) -> None:
        noise = np.random.default_rng(seed).normal(0.0, 0.02, 200)
        assert np.isnan(recent_level(noise).ratio(3.0))
        assert np.isnan(recent_level(np.abs(noise)).ratio(-3.0))
        assert np.isnan(recent_level(np.full(100, 0.0)).ratio(3.0))


@pytest.mark.parametrize(("places", "sigma"), [(0, 0.2887), (2, 0.002887), (4, 2.887e-5), (9, 0.0)])
def test_the_rounding_of_a_log_shows_in_its_values(places: int, sigma: float) -> None:
    values = np.round(np.random.default_rng(3).uniform(-3, 3, 200), places)
    assert rounding_sigma(values) == pytest.approx(sigma, rel=1e-3)
    if sigma:
        exact = np.random.default_rng(4).uniform(0, 100, 100_000)
        assert float((np.round(exact, places) - exact).std()) == pytest.approx(sigma, rel=0.01)


@given(
    values=st.lists(st.floats(width=64), min_size=1, max_size=9).map(np.array)
    | st.integers(500, 1500).map(lambda n: np.random.default_rng(n).normal(size=n)),
)
def test_the_median_is_numpys(values: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        assert np.array_equal(median(values), np.median(values), equal_nan=True)
        rows = np.stack([values, values[::-1], -values])
        for axis in (0, 1):
            assert np.array_equal(median(rows, axis=axis), np.median(rows, axis=axis), equal_nan=True)
        assert np.array_equal(median(rows), np.median(rows), equal_nan=True)
    assert median([1, 2, 4]) == 2 and median(np.float32([1, 2])) == 1.5
