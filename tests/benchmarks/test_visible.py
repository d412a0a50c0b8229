"""What counts as visible: distances from the clean twin, in robust sigmas between the clean seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.changed.visible import SET_BY_FAULT, Floats, shows, spread, visible
from postmortem.lab import list_faults

ROWS = 300


def clean_runs(seeds: int = 10, sigma: float = 0.1, level: float = 2.0) -> Floats:
    return level + sigma * np.random.default_rng(0).standard_normal((seeds, ROWS))


@pytest.mark.parametrize("seeds", [5, 10, 40])
def test_the_spread_is_that_of_the_seeds(seeds: int) -> None:
    assert np.median(spread(clean_runs(seeds))) == pytest.approx(0.1, rel=0.1)


def test_the_spread_follows_a_column_whose_noise_changes() -> None:
    clean = clean_runs()
    clean[:, 150:] = 2.0 + 5 * (clean[:, 150:] - 2.0)
    assert np.median(spread(clean)[:140]) == pytest.approx(0.1, rel=0.1)
    assert np.median(spread(clean)[160:]) == pytest.approx(0.5, rel=0.1)


def test_one_seed_far_from_the_others_is_no_spread() -> None:
    clean = clean_runs()
    clean[3] += 50.0
    assert np.median(spread(clean)) < 0.2


@pytest.mark.parametrize(
    ("rows", "sigmas", "visible_rows"),
    [(1, 7.0, 0), (2, 7.0, 2), (1, 14.0, 1), (20, 3.0, 0)],
    ids=["one row beyond five", "two beyond five", "one beyond ten", "many below five"],
)
def test_two_rows_beyond_five_sigmas_or_one_beyond_ten(rows: int, sigmas: float, visible_rows: int) -> None:
    clean = clean_runs()
    run = clean[0].copy()
    run[100 : 100 + rows] += sigmas * 0.1
    assert shows(run, clean[0], clean).sum() == visible_rows


def test_a_column_that_is_constant_between_seeds_must_move_by_a_hundredth() -> None:
    clean = np.full((10, ROWS), 4.0)
    run = clean[0].copy()
    run[50:60] = 4.03
    assert not shows(run, clean[0], clean).any()
    run[50:60] = 3.9
    assert shows(run, clean[0], clean).sum() == 10


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_shows_only_where_the_twin_is_finite(value: float) -> None:
    clean = clean_runs()
    run = clean[0].copy()
    run[70] = value
    assert shows(run, clean[0], clean).nonzero()[0].tolist() == [70]
    clean[0, 70] = value
    assert not shows(run, clean[0], clean).any()


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-6, 1e6), seeds=st.integers(2, 12))
def test_a_run_that_is_its_twin_shows_nothing_whatever_the_unit(seed: int, scale: float, seeds: int) -> None:
    clean = scale * np.random.default_rng(seed).standard_t(2, (seeds, 50))
    assert not shows(clean[0].copy(), clean[0], clean).any()
    run = clean[0].copy()
    run[20] += 1e4 * (np.ptp(clean) + scale)
    assert shows(run, clean[0], clean).nonzero()[0].tolist() == [20]


def test_what_a_fault_sets_itself_and_what_a_clean_run_lacks_show_nothing() -> None:
    clean = clean_runs()
    moved = clean[0].copy()
    moved[100:] += 5.0
    others = [{"lr": row, "loss": row} for row in clean]
    run = {"lr": moved, "loss": moved, "loss_scale": moved}
    assert visible("lr_discontinuity", run, others[0], others) == ["loss"]
    assert visible("garbage_data", run, others[0], others) == ["loss", "lr"]


def test_each_fault_of_the_lab_says_which_columns_it_sets() -> None:
    assert set(SET_BY_FAULT) == set(list_faults()) - {"none"}
