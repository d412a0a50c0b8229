"""A setting that changes is found in any column that is one, and a column that always varies has none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postmortem.detectors.setting_change import DETECTOR, SETTINGS
from tests.detectors.helpers import decline, findings, only, telemetry

ROWS, AT = 300, 180


def _changed(before: float, after: float) -> np.ndarray:
    return np.where(np.arange(ROWS) < AT, before, after)


@pytest.mark.parametrize("column", SETTINGS)
@pytest.mark.parametrize(("before", "after", "factor"), [(4096, 1024, 4), (8, 16, 2), (1000, 970, 1000 / 970)])
def test_a_constant_that_becomes_another(column: str, before: float, after: float, factor: float) -> None:
    columns: dict[str, Any] = {column: _changed(before, after)}
    incident = only(telemetry(loss=decline(ROWS), **columns))
    (f,) = incident.findings
    assert (f.kind, f.column, f.onset_step, f.outcome) == ("setting_change", column, AT, "lingering")
    assert (f.baseline, f.peak, f.figures["factor"]) == (before, after, pytest.approx(factor))


@pytest.mark.parametrize("off", [math.inf, 0.0])
def test_a_clip_threshold_that_is_gone_is_a_change_and_no_divergence(off: float) -> None:
    incident = only(telemetry(loss=decline(ROWS), clip_threshold=_changed(1.0, off)))
    assert (incident.kind, incident.onset_step, incident.outcome) == ("setting_change", AT, "lingering")
    assert [f.kind for f in incident.findings] == ["setting_change"]
    only(telemetry(loss=decline(ROWS), clip_threshold=_changed(math.inf, 1.0)))


@pytest.mark.parametrize(("resumes", "changes"), [((AT,), [AT]), ((), []), ((AT + 30,), [])])
def test_a_threshold_that_is_not_logged_after_a_resume_is_none(resumes: tuple[int, ...], changes: list[int]) -> None:
    t = telemetry(clip_threshold=np.ones(AT), grad_norm=np.ones(ROWS), restarts=resumes)
    assert [(f.onset_step, f.peak) for f in DETECTOR.findings(t)] == [(step, math.inf) for step in changes]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(1.6, 50), st.booleans())
def test_labels_that_vary_and_change_their_level_are_found_at_the_row(seed: int, factor: float, fewer: bool) -> None:
    labels = np.random.default_rng(seed).uniform(450, 550, ROWS)
    labels[AT:] *= 1 / factor if fewer else factor
    assert [f.onset_step for f in DETECTOR.findings(telemetry(valid_labels=labels))] == [AT]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 1.0))
def test_noise_is_no_change(seed: int, sigma: float) -> None:
    rng = np.random.default_rng(seed)
    noisy = 500 * np.exp(sigma * rng.standard_normal(2_000))
    noisy[rng.integers(0, 2_000, 20)] /= 10  # the last batch of an epoch is smaller
    assert not list(DETECTOR.findings(telemetry(tokens=noisy)))


@pytest.mark.parametrize(
    "tokens",
    [
        np.repeat([512, 1024, 2048, 4096, 8192], 60),  # a batch size that is ramped up
        np.tile(np.repeat([900.0, 300.0], 25), 6),  # batches in order of their length
        np.cumsum(np.full(ROWS, 4096.0)),  # a running total
        4096.0 * (1 + np.arange(ROWS) % 150),  # one that begins anew at a resume
    ],
    ids=["ramp", "sorted", "total", "totals"],
)
def test_a_schedule_and_a_counter_are_none(tokens: np.ndarray) -> None:
    assert not findings(telemetry(loss=decline(ROWS), tokens=tokens), "setting_change")


def test_one_short_batch_and_the_end_of_a_log_are_none() -> None:
    tokens = np.full(ROWS, 4096.0)
    tokens[[100, 200]] = 17
    tokens[-5:] = 1024  # as the rows of an epoch's end are
    assert not findings(telemetry(loss=decline(ROWS), tokens=tokens), "setting_change")


def test_two_constants_need_few_rows_and_two_bands_need_more() -> None:
    few = np.repeat([4096.0, 1024.0], [50, 10])
    (f,) = DETECTOR.findings(telemetry(tokens=few, every=10))
    assert (f.onset_step, f.onset_interval) == (500, (490, 500))
    noisy = few * np.random.default_rng(0).uniform(0.95, 1.05, few.size)
    assert not list(DETECTOR.findings(telemetry(tokens=noisy, every=10)))
