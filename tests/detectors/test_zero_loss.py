"""A loss of exactly zero: where it hides a NaN, and where it is what the log's rounding leaves."""

from __future__ import annotations

import numpy as np
import pytest

from postmortem.detectors import Telemetry
from postmortem.stats import rounding
from tests.detectors.helpers import decline, findings, only, telemetry
from tests.detectors.live_runs import follow, offline

NAME = "suspected_non_finite"


def _zeros_from(row: int, rows: int = 120) -> np.ndarray:
    loss = np.round(decline(rows), 4)
    loss[row:] = 0.0
    return loss


def _same_live(t: Telemetry) -> bool:
    return follow(t, [NAME]).settled == offline(t, [NAME])


@pytest.mark.parametrize(
    ("norm", "outcome"), [(None, "diverged"), (np.nan, "diverged"), (1.0, "diverged"), ("alive", "lingering")]
)
def test_a_loss_that_is_zero_from_a_row_on(norm: float | str | None, outcome: str) -> None:
    loss, rng = _zeros_from(54), np.random.default_rng(0)
    norms = 0.5 * np.exp(0.1 * rng.standard_normal(loss.size))
    if norm != "alive":
        norms[54:] = norm
    t = telemetry(loss=loss, every=10) if norm is None else telemetry(loss=loss, every=10, grad_norm=norms)
    incident = only(t)
    assert (incident.kind, incident.onset_interval, incident.outcome) == (NAME, (530, 540), outcome)
    assert _same_live(t)


def test_the_end_of_a_log_decides_nothing_where_the_gradient_is_alive() -> None:
    norms = 0.5 * np.exp(0.1 * np.random.default_rng(0).standard_normal(120))
    assert only(telemetry(loss=_zeros_from(110), grad_norm=norms)).outcome == "unresolved"


@pytest.mark.parametrize("first", [344093.2, 0.0, 2.5])
def test_zeros_beside_a_nan_gradient_need_no_past(first: float) -> None:
    t = telemetry(loss=np.append(first, np.zeros(59)), grad_norm=np.full(60, np.nan), every=5)
    incident = only(t)
    assert (incident.kind, incident.onset_step, incident.outcome) == (NAME, 0, "diverged")
    assert _same_live(t)


def test_a_gradient_that_wakes_withdraws_the_alarm() -> None:
    norms = np.full(60, np.nan)
    norms[20:] = 0.5
    t = telemetry(loss=np.zeros(60), grad_norm=norms)
    states = [alarm.state for _, alarm in follow(t, [NAME]).alarms]
    assert states == ["open", "withdrawn"] and _same_live(t)


@pytest.mark.parametrize("before", [(11.5,), (2.31, 2.28, 2.25), (0.71, 0.7, 0.69, 0.7, 0.68)])
def test_zeros_after_a_few_rows_are_suspected(before: tuple[float, ...]) -> None:
    t = telemetry(loss=np.append(before, np.zeros(60)))
    assert (only(t).kind, only(t).onset_step, only(t).outcome) == (NAME, len(before), "diverged") and _same_live(t)


def test_zeros_from_the_first_row_on_are_suspected_beside_a_gradient_of_zero() -> None:
    t = telemetry(loss=np.zeros(60), grad_norm=np.zeros(60))
    assert only(t).kind == NAME and _same_live(t)
    assert not findings(telemetry(loss=np.zeros(60)), NAME)


@pytest.mark.parametrize("seed", range(20))
def test_a_loss_near_the_rounding_of_its_log_may_be_zero(seed: int) -> None:
    rng = np.random.default_rng(seed)
    loss = np.round(np.abs(3e-4 * rng.standard_normal(200)) + 1e-4, 4)
    loss[190:] = 0.0
    solved = np.append(0.5 * np.exp(0.3 * rng.standard_normal(190)), np.zeros(10))
    for t in (telemetry(loss=loss), telemetry(loss=loss, grad_norm=solved)):
        assert not findings(t, NAME) and _same_live(t)


@pytest.mark.parametrize(
    ("values", "unit"),
    [((0.0003, -0.0012, 0.5), 1e-4), ((1.3956, 1.2363), 1e-4), ((2.0, 300.0), 1.0), ((0.1 + 1e-12, 1 / 3), 0.0)],
)
def test_rounding_is_the_unit_of_the_last_decimal(values: tuple[float, ...], unit: float) -> None:
    assert rounding(np.array(values)) == unit
