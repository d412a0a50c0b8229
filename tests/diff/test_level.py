"""The noise of a gap, and what lies outside it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from postmortem.diff.level import (
    end_rows,
    level_rows,
    levels,
    measure_gap,
    nats,
    noise_band,
    recovery_step,
    signed,
    thinned,
)
from postmortem.diff.pair import Curve

N = 2000


def curve(a: np.ndarray, b: np.ndarray) -> Curve:
    step = np.arange(a.size)
    return Curve("loss", "step", step, step, a, b)


def trend(n: int = N) -> np.ndarray:
    return 2.0 + 3 * np.exp(-np.arange(n) / 200)


def noisy(seed: int, n: int = N, sigma: float = 0.05) -> np.ndarray:
    return trend(n) + sigma * np.random.default_rng(seed).standard_normal(n)


def test_sigma_is_that_of_two_levels() -> None:
    found = [noise_band(curve(noisy(2 * s), noisy(2 * s + 1))) for s in range(20)]
    measured = np.median([f.noise.sigma for f in found if f is not None])
    exact = 0.05 * math.sqrt(2) * math.sqrt(math.pi / 2 / 50)  # a median of n Gaussians: σ √(π / 2n)
    assert measured == pytest.approx(exact, rel=0.2)


def test_equal_curves_but_for_noise_stay_inside_and_a_shift_does_not() -> None:
    inside = shifted = 0
    for seed in range(50):
        a, b = noisy(2 * seed), noisy(2 * seed + 1)
        for shift in (0.0, 0.06):
            pair = curve(a, b + shift * (np.arange(N) >= 1000))
            noise = noise_band(pair)
            assert noise is not None
            found = measure_gap(pair, noise, 1, None)
            inside += not shift and not found.outside and abs(found.final) <= found.noise.end
            shifted += bool(shift) and abs(found.final) > found.noise.end
    assert inside >= 45 and shifted >= 48


def test_what_is_hard_for_both_cancels() -> None:
    a = noisy(1)
    b = a + 1e-6 * np.random.default_rng(9).standard_normal(N)
    paired, unpaired = noise_band(curve(a, b)), noise_band(curve(a, noisy(2)))
    assert paired is not None and unpaired is not None
    assert paired.noise.sigma < 1e-5 < unpaired.noise.sigma
    assert paired.noise.band == pytest.approx(0.004 * 2.0, rel=0.05)  # the floor


def test_a_few_steps_ahead_are_no_other_curve_and_a_whole_level_s_gap_is() -> None:
    step = np.arange(N)
    for ahead, outside in ((10, False), (150, True)):
        pair = curve(noisy(1), noisy(2) - trend() + 2.0 + 3 * np.exp(-(step + ahead) / 200))
        noise = noise_band(pair)
        assert noise is not None and bool(measure_gap(pair, noise, 1, None).outside) is outside


def test_siblings_widen_the_band() -> None:
    a = noisy(1)
    pair = curve(a, a + 1e-6)
    wide = noise_band(pair, [curve(a, a + 0.2)])
    assert wide is not None and wide.noise.siblings == 1
    assert wide.noise.band == pytest.approx(0.2) and wide.noise.end == pytest.approx(0.2)


def test_area_largest_and_end() -> None:
    a = trend()
    b = a.copy()
    b[500:510] += 1.0
    b[700] = np.nan
    b[-200:] -= 0.5
    pair = curve(a, b)
    noise = noise_band(pair)
    assert noise is not None
    found = measure_gap(pair, noise, 10, 600)
    assert found.area == pytest.approx(10 * (10 * 1.0 + 200 * 0.5))
    assert (found.largest, found.largest_at) == (pytest.approx(1.0), (500, 500))
    assert found.final == pytest.approx(-0.5) and found.before == 0.0 and found.nonfinite == 1
    assert found.outside >= 4


def test_back_is_after_the_last_level_outside() -> None:
    a = trend()
    b = a + 0.5 * ((np.arange(N) >= 400) & (np.arange(N) < 600))
    pair = curve(a, b)
    noise = noise_band(pair)
    assert noise is not None
    assert recovery_step(pair, noise, 400, 2**62) == 600
    assert recovery_step(pair, noise, 700, 2**62) == 700
    assert recovery_step(curve(a, a + 0.5 * (np.arange(N) >= 400)), noise, 400, 2**62) is None


def test_levels_end_with_the_last_row() -> None:
    assert levels(np.array([9.0, 1, 2, 3, 4]), 2).tolist() == [1.5, 3.5]
    assert math.isnan(levels(np.array([1.0, np.nan]), 2)[0])
    assert [level_rows(n) for n in (3, 40, 400, 10**6)] == [1, 1, 10, 50]
    assert [end_rows(n) for n in (3, 100, 10**6)] == [3, 20, 50_000]


def test_too_few_rows_have_no_band() -> None:
    assert noise_band(curve(trend(7), trend(7) + 1)) is None


def test_a_thinned_curve_keeps_its_spikes_and_its_nan() -> None:
    value = np.zeros(100_003)
    value[77_777], value[5] = 7.0, np.nan
    drawn = thinned("loss", np.arange(value.size), value)
    assert len(drawn.step) < 2000 and 7.0 in drawn.value and drawn.step[-1] == value.size - 1
    assert any(math.isnan(v) for v in drawn.value)


def test_gaps_in_words() -> None:
    assert [signed(g) for g in (0.01234, -2.0, 0.0, -123.456, math.nan)] == ["+0.012", "−2", "+0", "−123", "NaN"]
    assert nats(1.23e-5) == "1.2e-05"
