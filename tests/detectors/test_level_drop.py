"""A loss that falls to a new level at once is found, and what only looks like it is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postmortem.detectors import find_incidents
from postmortem.detectors.level_drop import DETECTOR
from tests.detectors.helpers import decline, findings, telemetry

ROWS, AT = 500, 300


def _dropped(ratio: float, seed: int = 0, at: int = AT) -> np.ndarray:
    loss = decline(ROWS, seed, sigma=0.05)
    loss[at:] *= ratio
    return loss


@pytest.mark.parametrize("ratio", [0.8, 0.5, 1 / 128])
@pytest.mark.parametrize("seed", range(5))
def test_a_drop_that_stays_opens_an_incident_at_its_row(ratio: float, seed: int) -> None:
    (f,) = findings(telemetry(loss=_dropped(ratio, seed)), "level_drop")
    assert (f.onset_step, f.outcome, f.recovery_step) == (AT, "lingering", None)
    assert f.settled == pytest.approx(2.3 * ratio, rel=0.05) and f.figures["ratio"] == pytest.approx(ratio, rel=0.05)


def test_sparse_rows_give_the_interval_in_which_it_fell() -> None:
    (f,) = findings(telemetry(loss=_dropped(0.5), every=10), "level_drop")
    assert f.onset_interval == (10 * (AT - 1), 10 * AT)


def _curves(step: np.ndarray, shape: float) -> dict[str, np.ndarray]:
    return {
        "power law": 2 + 4 * (1 + step) ** -(0.3 + shape),
        "cooldown": 2.5 - np.where(step > 400, 0.004 * (0.5 + shape) * (step - 400), 0),
        "breakthrough": 3.9 - 1.2 / (1 + np.exp(-(step - 250) / (5 + 30 * shape))),
        "cosine": 2.2 + 0.6 * np.cos(np.pi * step / step.size) + shape * np.exp(-step / 50),
    }


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["power law", "cooldown", "breakthrough", "cosine"]),
    shape=st.floats(0, 1),
    sigma=st.floats(0.003, 0.3),
    seed=st.integers(0, 2**31),
    tail=st.sampled_from([0.0, 3.0, 5.0]),
)
def test_learning_is_no_drop(kind: str, shape: float, sigma: float, seed: int, tail: float) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.standard_t(tail, ROWS) if tail else rng.standard_normal(ROWS)
    loss = np.maximum(_curves(np.arange(ROWS), shape)[kind] + sigma * noise, 0.05)
    assert not list(DETECTOR.findings(telemetry(loss=loss)))


def test_a_batch_that_is_repeated_for_a_while_and_a_return_from_a_higher_level_are_none() -> None:
    dip, lifted = decline(ROWS), decline(ROWS)
    dip[AT : AT + 30] -= 1.5
    lifted[AT : AT + 80] += 1.5
    for loss in (dip, lifted):
        assert not list(DETECTOR.findings(telemetry(loss=loss)))


def test_a_rate_that_is_lowered_at_once_explains_it() -> None:
    lr = np.full(ROWS, 1e-2)
    lr[AT:] /= 10
    assert not findings(telemetry(loss=_dropped(0.7), lr=lr), "level_drop")
    assert findings(telemetry(loss=_dropped(0.7), lr=lr[::-1] * 0 + 1e-3), "level_drop")


def test_a_loss_of_zero_is_no_drop() -> None:
    loss = decline(ROWS)
    loss[AT:] = 0.0
    assert not findings(telemetry(loss=loss), "level_drop") and find_incidents(telemetry(loss=loss))


@pytest.mark.parametrize("seed", range(5))
def test_sixty_rows_of_every_tenth_step_are_enough(seed: int) -> None:
    rng = np.random.default_rng(seed)
    loss = (2.3 + 3.5 * np.exp(-np.arange(60) / 10)) * np.exp(0.02 * rng.standard_normal(60))
    loss[35:] *= 0.6
    (f,) = DETECTOR.findings(telemetry(loss=loss, every=10))
    assert (f.onset_step, f.onset_interval) == (350, (340, 350))
