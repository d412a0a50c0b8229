"""Columns that rise by themselves, early or slowly: they open no incident, swallow none, and move on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postmortem.detectors import find_incidents
from tests.detectors.helpers import calm_norm, decline, findings, only, telemetry

ROWS, AT = 600, 400
COLUMNS = ("grad_norm", "update_rms", "token_loss_max")
SHAPES = ("saturating", "logistic", "fall and rise", "warmup", "hump")


def trend(shape: str, rows: int, size: float) -> np.ndarray:
    """A smooth early trend, in log units, that takes about `rows` rows."""
    step = np.arange(ROWS)
    shapes = {
        "saturating": size * (1 - np.exp(-step / rows)),
        "logistic": size / (1 + np.exp(-(step - rows) / (rows / 4))),
        "fall and rise": size * ((step - rows) / rows) ** 2 * np.exp(-step / rows),
        "warmup": np.log(np.minimum((step + 1) / rows, 1)),
        "hump": size * step / rows * np.exp(1 - step / rows),
    }
    return shapes[shape]


def noise(sigma: float, seed: int) -> np.ndarray:
    return sigma * np.random.default_rng(seed).standard_normal(ROWS)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(COLUMNS),
    st.sampled_from(SHAPES),
    st.integers(15, 150),
    st.floats(0.3, 2.5),
    st.sampled_from((0.02, 0.1)),
    st.integers(0, 99),
)
def test_a_column_with_an_early_trend_makes_no_diagnosis_worse(
    column: str, shape: str, rows: int, size: float, sigma: float, seed: int
) -> None:
    loss = decline(ROWS, seed)
    loss[AT : AT + 30] += 1.5 * np.exp(-np.arange(30) / 8)
    plain = only(telemetry(loss=loss))
    worst = find_incidents(telemetry(loss=loss, **{column: np.exp(trend(shape, rows, size) + noise(sigma, seed))}))[0]
    assert (worst.onset_step, worst.peak_step, worst.kind) == (plain.onset_step, plain.peak_step, plain.kind)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_early_trend_is_no_incident(column: str, shape: str) -> None:
    for seed, rows in enumerate((20, 40, 90)):
        values = np.exp(trend(shape, rows, 1.2) + noise(0.05, seed))
        assert find_incidents(telemetry(loss=decline(ROWS, seed), **{column: values})) == (), rows


@pytest.mark.parametrize("column", ["token_loss_max", "update_rms"])
@pytest.mark.parametrize("top", [0.9, 1.1])
def test_a_trend_that_turns_is_no_incident(column: str, top: float) -> None:
    """As the worst token's loss of a model that begins to learn: one high row, a slow rise, and the way back."""
    way = np.interp(np.arange(ROWS), [0, 20, 70, 90], [0.0, 0.12, top, 0.0])
    way[21] += 0.3
    for seed in range(3):
        values = 5.5 * np.exp(way + noise(0.02, seed))
        assert find_incidents(telemetry(loss=decline(ROWS, seed), **{column: values})) == (), seed


def test_a_level_that_holds_is_the_new_one_and_what_departs_from_it_is_found() -> None:
    rms = 0.2 * np.exp(noise(0.03, 0))
    rms[100:] *= 4
    rms[AT] *= 4
    steps = [(f.onset_step, f.outcome) for f in findings(telemetry(update_rms=rms), "update_rms_spike")]
    assert steps == [(100, "lingering"), (AT, "recovered")]
    assert len(find_incidents(telemetry(update_rms=rms))) == 2


def test_a_symptom_that_lasts_does_not_take_in_what_departs_later() -> None:
    rms, worst, norm = 0.2 * np.exp(noise(0.03, 0)), 6 * np.exp(noise(0.1, 1)), calm_norm(ROWS)
    rms[100:] *= 4
    worst[300:304] *= 4
    norm[500] *= 60
    onsets = sorted(
        i.onset_step for i in find_incidents(telemetry(update_rms=rms, token_loss_max=worst, grad_norm=norm))
    )
    assert onsets == [100, 300, 500]


class TestHeavyTails:
    def test_noise_of_single_rows_opens_few_incidents(self) -> None:
        """In 20 runs of two columns of 600 rows; with no look at the tail, 7."""
        opened = 0
        for seed in range(20):
            rng = np.random.default_rng(seed)
            loss = decline(ROWS, sigma=0.0) * np.exp(0.03 * rng.standard_t(3, ROWS))
            norm = calm_norm(ROWS, seed) * np.exp(0.1 * rng.standard_t(3, ROWS))
            opened += bool(find_incidents(telemetry(loss=loss, grad_norm=norm)))
        assert opened <= 4

    def test_log_normal_batches_open_few(self) -> None:
        rng = np.random.default_rng(0)
        runs = (decline(ROWS, sigma=0.0) * np.exp(0.4 * rng.standard_normal(ROWS)) for _ in range(25))
        assert sum(bool(find_incidents(telemetry(loss=loss))) for loss in runs) <= 1

    def test_two_columns_that_depart_in_one_row_are_one(self) -> None:
        """Neither is beyond its tail alone."""
        rng = np.random.default_rng(0)
        loss = decline(ROWS, sigma=0.0) * np.exp(0.02 * rng.standard_t(3, ROWS))
        norm = 0.6 * np.exp(0.1 * rng.standard_t(3, ROWS))
        loss[AT], norm[AT] = 1.3 * loss[AT - 1], 6.0
        assert not any(i.onset_step == AT for i in find_incidents(telemetry(loss=loss)))
        assert any(i.onset_step == AT for i in find_incidents(telemetry(loss=loss, grad_norm=norm)))


@pytest.mark.parametrize("row", [16, 31, 58])
def test_one_row_of_a_sparse_log_is_an_incident(row: int) -> None:
    """Sixty rows, a tenth of the steps, of a loss that falls."""
    loss = decline(ROWS, sigma=0.0)[::10] * np.exp(0.02 * np.random.default_rng(3).standard_normal(60))
    assert find_incidents(telemetry(loss=loss, every=10)) == ()
    loss[row] += 1.5
    incident = only(telemetry(loss=loss, every=10))
    assert (incident.onset_step, incident.onset_interval) == (10 * row, (10 * row - 10, 10 * row))


def test_most_spikes_that_a_sparse_log_shows_in_two_columns_are_incidents() -> None:
    """Of 64 by a third or a half of the loss, in one logged row; from the median of all rows before, 33."""
    opened = 0
    for seed in range(8):
        for row in (18, 25, 35, 50):
            for nats in (0.8, 1.5):
                loss, norm = decline(ROWS, seed)[::10].copy(), calm_norm(ROWS, seed + 50)[::10].copy()
                loss[row] += nats
                norm[row] *= 3
                incidents = find_incidents(telemetry(loss=loss, grad_norm=norm, every=10))
                opened += any(i.onset_step == 10 * row for i in incidents)
    assert opened >= 48


def test_a_row_within_the_tail_opens_an_incident_only_with_a_witness() -> None:
    """The noise of the loss has a heavy tail; its highest row is an incident where the gradient leaves its own."""
    rng = np.random.default_rng(3)
    loss = 2.3 * np.exp(0.04 * rng.standard_t(3, ROWS))
    loss[AT] = 2.3 * np.exp(1.9 * np.abs(np.log(loss[:AT] / 2.3)).max())
    norm = np.exp(noise(0.1, 4))
    assert not [i for i in find_incidents(telemetry(loss=loss, grad_norm=norm)) if i.onset_step == AT]
    norm[AT] = 2.5
    assert [i.onset_step for i in find_incidents(telemetry(loss=loss, grad_norm=norm)) if i.onset_step == AT] == [AT]


def test_two_rows_of_a_heavy_tail_close_to_each_other_are_no_noise() -> None:
    """A row at twice the largest of 700 rows alone may be noise, as one run in a dozen has it; two of them are not."""
    loss = decline(900, sigma=0.0) * np.exp(0.03 * np.random.default_rng(1).standard_t(4, 900))
    alone, close, apart = loss.copy(), loss.copy(), loss.copy()
    for y, rows in ((alone, (700,)), (close, (700, 730)), (apart, (500, 750))):
        y[list(rows)] *= 1.5
    onsets = [sorted(i.onset_step for i in find_incidents(telemetry(loss=y))) for y in (loss, alone, close, apart)]
    assert onsets == [[], [], [700, 730], []]
