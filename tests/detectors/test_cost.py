"""A million steps of twelve columns, and one row of a live loop."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from postmortem.detectors import Telemetry, detectors, find_incidents, live
from tests.detectors.helpers import telemetry

ROWS = 1_000_000


def _long_run() -> Telemetry:
    rng = np.random.default_rng(0)
    step = np.arange(ROWS)

    def even(level: float, sigma: float) -> np.ndarray:
        return level * np.exp(sigma * rng.standard_normal(ROWS))

    loss = 2.9 + 8 * np.exp(-step / 1500) + 0.03 * rng.standard_normal(ROWS)
    loss[500_000:500_100] += 1.5 * np.exp(-np.arange(100) / 30)
    norm = even(0.4, 0.15)
    norm[499_999] *= 40
    return telemetry(
        loss=loss,
        grad_norm=norm,
        lr=3e-4 * np.minimum(step / 1000, 0.5 * (1 + np.cos(np.pi * step / ROWS))),
        param_norm=100 + 0.1 * np.sqrt(step),
        update_rms=even(0.2, 0.05),
        adam_m_norm=even(0.2, 0.2),
        adam_v_norm=even(0.01, 0.01),
        token_loss_max=even(7.0, 0.1),
        tokens_per_s=even(1e5, 0.1),
        step_time_s=even(1.0, 0.1),
        max_output_logit=even(20.0, 0.05),
        log_z=rng.standard_normal(ROWS),
    )


@pytest.mark.slow
def test_a_row_of_loss_gradient_norm_and_rate_takes_a_live_loop_no_time() -> None:
    rng = np.random.default_rng(0)
    watching, took = live(), list[float]()
    for step in range(5_000):
        row = {"loss": 2.5 + 0.03 * rng.standard_normal(), "grad_norm": float(np.exp(0.2 * rng.standard_normal()))}
        started = time.perf_counter()
        watching.add_row(step, {**row, "lr": 3e-4})
        took.append(time.perf_counter() - started)
    assert np.median(took) <= 10e-6


@pytest.mark.parametrize("name", ["loss_spike", "loss_cusum"])
def test_a_long_column_needs_few_copies_of_itself(name: str) -> None:
    """Of 10^7 steps, each copy of a column is 80 MB."""
    rows = 3 * 2**20
    rng = np.random.default_rng(0)
    t = telemetry(loss=2.9 + 8 * np.exp(-np.arange(rows) / 1500) + 0.03 * rng.standard_normal(rows))
    detector = next(detector for detector in detectors() if detector.name == name)
    assert t.series("loss") is not None
    tracemalloc.start()
    assert not list(detector.findings(t))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5.5 * 8 * rows, f"{peak / (8 * rows):.1f} times the column"


@pytest.mark.slow
def test_a_million_rows_of_twelve_columns() -> None:
    t = _long_run()
    started = time.process_time()
    (incident,) = find_incidents(t)
    assert time.process_time() - started < 2.0
    assert (incident.onset_step, incident.peak_step) == (499_999, 500_000)
    tracemalloc.start()
    find_incidents(t)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 8 * ROWS
