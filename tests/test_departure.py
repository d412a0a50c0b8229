"""What counts as moved, still, and unclear: trends, noise, and the power to see a move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postmortem.assess.weighing import weigh
from postmortem.departure import Departure, beside_others, measure_departure
from postmortem.detectors import find_incidents
from postmortem.panels import panels
from postmortem.series import Series
from tests.detectors.helpers import telemetry
from tests.makers import STEPS, noise
from tests.panels.test_flat_or_not import AT, case_of, observed, spiked

ROWS = 100
LEVELS = {"loss.spike", "loss.drop", "loss.flat", "loss.unclear", "loss.raised"}


def departure(values: np.ndarray, sign: int = 1) -> Departure:
    """Of the rows from 100 on, from the 100 before."""
    series = Series("x", np.arange(values.size, dtype=np.int64), values)
    return measure_departure(series.window(0, ROWS), series.window(ROWS, values.size), sign)


def noisy(values: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    return values * np.exp(sigma * np.random.default_rng(seed).standard_normal(values.size))


def test_a_rise_out_of_a_steep_fall_has_moved() -> None:
    """It only comes back to where the column was fifty rows before."""
    loss = noisy(2 + 4 * np.exp(-np.arange(ROWS + 5) / 40), 0.01)
    assert not departure(loss).moved and departure(loss).flat
    loss[ROWS:] *= 1.35
    up = departure(loss)
    assert loss[ROWS] < loss[ROWS - 80]
    assert up.moved and up.first_step == ROWS and up.ratio == pytest.approx(1.3, abs=0.1)


@settings(max_examples=60, deadline=None)
@given(st.floats(-0.03, 0.03), st.floats(0.01, 0.1), st.integers(0, 10_000))
def test_a_trend_that_goes_on_or_stops_has_not_moved(slope: float, sigma: float, seed: int) -> None:
    step = np.arange(ROWS + 8)
    for values in (slope * step, slope * np.minimum(step, ROWS)):
        for sign in (-1, 1):
            assert not departure(noisy(np.exp(values), sigma, seed), sign).moved


@settings(max_examples=40, deadline=None)
@given(st.floats(-0.02, 0.02), st.floats(0.01, 0.05), st.sampled_from((-1, 1)), st.integers(0, 10_000))
def test_what_moves_by_three_times_is_never_still(slope: float, sigma: float, sign: int, seed: int) -> None:
    values = noisy(np.exp(slope * np.arange(ROWS + 8)), sigma, seed)
    values[ROWS + 2] *= 3.5**sign
    d = departure(values, sign)
    assert d.moved and not d.flat and d.step == ROWS + 2


def test_a_column_too_noisy_to_see_a_move_is_not_still() -> None:
    quiet, loud = (departure(noisy(np.ones(ROWS + 8), sigma)) for sigma in (0.1, 0.6))
    assert quiet.flat and quiet.least < 3
    assert not loud.flat and not loud.moved and loud.least > 5


def test_the_rows_that_are_compared_need_not_be_positive() -> None:
    values = np.random.default_rng(0).standard_normal(ROWS + 8)
    assert departure(values).flat and np.isnan(departure(values).ratio)
    values[ROWS + 1] = -40.0
    down = departure(values, -1)
    assert down.moved and down.z < 0 and down.step == ROWS + 1


@pytest.mark.parametrize("sign", [-1, 0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_an_infinite_departure(value: float, sign: int) -> None:
    values = np.ones(ROWS + 8)
    values[ROWS + 3] = value
    d = departure(values, sign)
    assert abs(d.z) == np.inf and d.moved and d.step == ROWS + 3


def test_a_column_that_grows_as_far_as_numbers_go_has_a_baseline() -> None:
    """Its trend, on the logarithm, leads further."""
    values = np.concatenate((np.ones(ROWS - 48), 10.0 ** np.linspace(0, 300, 48), np.full(8, 1e308)))
    with np.errstate(all="ignore"):  # as in a diagnosis
        assert np.isfinite(departure(values, 0).baseline)


def test_a_rank_is_compared_with_the_others_of_its_row() -> None:
    step, wave = np.arange(6, dtype=np.int64), np.array([5.0, 4.0, 6.0, 3.0, 8.0, 2.0])
    one, others = Series("loss/rank0", step, 2 * wave), [Series(f"loss/rank{r}", step[1:], wave[1:]) for r in (1, 2)]
    relative = beside_others(one, others)
    assert relative.step.tolist() == [1, 2, 3, 4, 5] and relative.value.tolist() == [2.0] * 5


def test_one_rank_that_departs_alone_is_the_one_that_moved(tmp_path: Path) -> None:
    """Its own loss falls and wavers by more than that: only beside the others it stands out."""
    rng, step = np.random.default_rng(0), np.arange(500)
    common = (2.3 + 3 * np.exp(-step / 120)) * np.exp(0.15 * rng.standard_normal(500))
    ranks = {f"loss/rank{r}": common * np.exp(0.02 * rng.standard_normal(500)) for r in range(4)}
    ranks["loss/rank2"][AT : AT + 12] *= 1.6
    loss = 2.3 + 0.01 * rng.standard_normal(500)
    loss[AT : AT + 12] += 1
    case = case_of(tmp_path, loss=loss, **ranks)
    departures = {name: d for name in ranks if (d := case.departure(name, sign=1)) is not None}
    assert [name for name, d in departures.items() if d.moved] == ["loss/rank2"]
    assert departures["loss/rank2"].ratio == pytest.approx(1.6, abs=0.15)
    assert departures["loss/rank2"].value == ranks["loss/rank2"][departures["loss/rank2"].step - 0]
    assert "ranks.one" in {o.slug for panel in panels() for o in panel.read(case)[1]}


def test_a_rank_that_logs_zero_is_told_in_its_own_unit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ranks = {f"loss/rank{r}": 2.3 * np.exp(0.02 * rng.standard_normal(500)) for r in range(3)}
    ranks["loss/rank2"][AT + 3] = 0.0
    loss = 2.3 + 0.01 * rng.standard_normal(500)
    loss[AT : AT + 12] += 1
    d = case_of(tmp_path, loss=loss, **ranks).departure("loss/rank2", sign=-1)
    assert d is not None and d.moved and (d.value, d.step, d.ratio) == (0.0, AT + 3, 0.0)
    assert 2.1 < d.lowest < d.baseline < d.highest < 2.6


@pytest.mark.parametrize(("floor", "rows", "height"), [(1.5, 90, 1.3), (0.5, 40, 2.0), (0.2, 60, 2.0)])
@pytest.mark.parametrize("seed", range(4))
def test_what_the_detector_finds_the_panel_calls_moved(
    tmp_path: Path, seed: int, floor: float, rows: float, height: float
) -> None:
    """In a loss that still falls, by a third or to a fifth, in the rows of its baseline; and to fall on is no drop."""
    rng, step = np.random.default_rng(seed), np.arange(300)
    loss = (floor + 5 * np.exp(-step / rows)) * np.exp(0.02 * rng.standard_normal(300))
    at = 110
    loss[at : at + 6] *= height
    (incident, *_) = find_incidents(telemetry(loss=loss))
    assert incident.onset_step == at
    case = case_of(tmp_path, loss=loss)
    moved = case.departure("loss", sign=1)
    assert moved is not None and moved.moved
    assert {"loss.spike"} == {o.slug for o in observed(case).values() if o.slug in LEVELS}


@pytest.mark.parametrize(("fall", "height"), [(3, 4), (4, 4), (4, 5)])
def test_a_spike_out_of_a_falling_norm_is_not_said_to_be_still(fall: float, height: float, tmp_path: Path) -> None:
    """The median of the rows before is far above where the norm was last."""
    norm = 0.6 * np.exp(noise(0.1, seed=3) - np.log(fall) * (np.minimum(np.arange(STEPS), AT) - 200) / 100)
    norm[AT : AT + 5] *= height
    case = case_of(tmp_path, loss=spiked(), grad_norm=norm)
    seen = observed(case)
    assert "grad_norm.spike" in seen and not any("did not move" in o.text for o in seen.values())
    weights = next(e for e in weigh(case, [(3, seen["grad_norm.spike"])])).weights
    assert weights["benign"] < 0 and weights["logging_artifact"] < 0
