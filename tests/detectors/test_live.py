"""The row-by-row version of each detector reports what it reports of the whole run, as soon as it can be known."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from postmortem.detectors import Detector, Telemetry, detectors, live
from postmortem.detectors._rolling import GRID_ROWS
from postmortem.sources import open_run
from tests.detectors.helpers import any_values, calm_norm, decline, telemetry
from tests.detectors.live_runs import Followed, departures, excursions, follow, offline
from tests.detectors.scenarios import FAULT_STEP, SCENARIOS, scenario
from tests.samples import NAMES, sample

heavy = pytest.mark.heavy

LIVE = tuple(d.name for d in detectors() if d.stream is not None)
DECLARED = {
    "loss_spike": "on the linear scale the height that counts is a share of the whole column's median size",
    "loss_scale": "skipped steps count where the scale never moves, and it may yet move",
    "lr_discontinuity": "the highest rate is that of the whole run, and a schedule is known by its third restart",
}
"""Why the two versions may differ, by detector; `test_differences_are_these` counts them."""


def _settled_for_good(followed: Followed) -> None:
    """No settled alarm was taken back, and no alarm stayed open."""
    kinds: dict[tuple[str, str, int], str] = {}
    for _, alarm in followed.alarms:
        if alarm.key in kinds:
            assert alarm.state == "settled" and alarm.kind == kinds[alarm.key], alarm
        if alarm.state == "settled":
            kinds[alarm.key] = alarm.kind
    assert all(alarm.state != "open" for alarm in followed.last.values())


@pytest.mark.parametrize("detector", detectors(), ids=lambda d: d.name)
def test_a_detector_works_row_by_row_or_says_why_not(detector: Detector) -> None:
    if detector.stream is None:
        assert detector.no_stream.endswith(".") and len(detector.no_stream.split()) > 5
    else:
        assert not detector.no_stream and detector.stream() is not detector.stream()


def test_the_columns_that_are_logged_at_each_step_are_monitored_live() -> None:
    read = {"loss_spike", "loss_cusum", "grad_norm_spike", "grad_norm_shift", "lr_discontinuity", "loss_scale"}
    assert read | {"early_rise", "eval_loss_rise", "update_rms", "non_finite", "suspected_non_finite"} == set(LIVE)


@heavy
@pytest.mark.parametrize("name", SCENARIOS)
def test_both_versions_agree_on_the_scenarios(name: str) -> None:
    for seed in range(4):
        t = telemetry(loss=scenario(name, seed)[0])
        followed = follow(t)
        assert followed.settled == offline(t), f"seed {seed}"
        _settled_for_good(followed)


@pytest.mark.skipif(not NAMES, reason="the sample runs are in the repository only")
@pytest.mark.parametrize("name", NAMES)
def test_both_versions_agree_on_the_sample_runs(name: str) -> None:
    run = open_run(sample(name))
    t = Telemetry(run.series, run.columns, run.row_steps, run.labels)
    followed = follow(t)
    assert followed.settled == offline(t)
    _settled_for_good(followed)


@heavy
@pytest.mark.parametrize("seed", range(60))
def test_both_versions_agree_on_departures(seed: int) -> None:
    t = departures(seed)
    followed, reported = follow(t), offline(t)
    assert reported <= followed.settled, "nothing is missed"
    assert {detector for detector, _, _, _ in followed.settled - reported} <= set(DECLARED)
    _settled_for_good(followed)


@heavy
@pytest.mark.parametrize("seed", range(3))
def test_both_versions_agree_up_to_the_rows_from_which_windows_are_shared(seed: int) -> None:
    """Twice as many rows as the row-by-row version keeps."""
    rng = np.random.default_rng(seed)
    loss, norm, lr = decline(GRID_ROWS), calm_norm(GRID_ROWS), np.full(GRID_ROWS, 1e-3)
    for at in rng.integers(500, GRID_ROWS - 200, 6).tolist():
        loss[at : at + int(rng.integers(1, 40))] += float(rng.choice([0.5, 2.0]))
    loss[int(rng.integers(9_000, 14_000)) :] += 0.5
    norm[int(rng.integers(500, 16_000))] *= 40
    norm[int(rng.integers(9_000, 15_000))] = np.inf
    lr[int(rng.integers(9_000, 15_000)) :] *= 3
    t = telemetry(loss=loss, grad_norm=norm, lr=lr)
    followed = follow(t)
    assert followed.settled == offline(t) and len(followed.settled) > 5
    _settled_for_good(followed)


@heavy
def test_differences_are_these() -> None:
    differ: Counter[str] = Counter()
    reports = 0
    for make, seeds in ((departures, 15), (excursions, 25)):
        for seed in range(seeds):
            t = make(seed)
            reported, settled = offline(t), follow(t).settled
            reports += len(reported)
            differ.update(detector for detector, _, _, _ in reported ^ settled)
    assert set(differ) <= set(DECLARED), differ
    assert reports > 100 and differ.total() <= 0.01 * reports, differ


@pytest.mark.parametrize(
    ("name", "most"), [("one_step", 0), ("decaying", 0), ("level_shift", 1), ("slow_divergence", 30)]
)
def test_an_alarm_comes_within_rows_of_the_fault(name: str, most: int) -> None:
    followed = follow(telemetry(loss=scenario(name, 0)[0]))
    row, alarm = min(
        ((row, a) for row, a in followed.alarms if a.onset_step >= FAULT_STEP - 20), key=lambda alarm: alarm[0]
    )
    assert row - FAULT_STEP <= most and alarm.state == "open"


def test_a_spike_that_is_over_is_settled_and_a_shift_waits() -> None:
    loss = decline(900)
    loss[500:504] += 2.0
    (opened, settled) = follow(telemetry(loss=loss), ["loss_spike"]).alarms
    assert (opened[0], opened[1].state) == (500, "open")
    assert (settled[1].kind, settled[1].state) == ("loss_spike", "settled") and settled[0] < 520
    loss[700:] += 1.0
    alarms = [
        (row, a.kind, a.state) for row, a in follow(telemetry(loss=loss), ["loss_spike"]).alarms if a.onset_step == 700
    ]
    assert alarms[0] == (700, "loss_spike", "open") and alarms[-1] == (899, "level_shift", "settled")


def test_a_skipped_step_is_reported_at_once_and_with_its_kind_after_the_next_row() -> None:
    norm = calm_norm(300)
    norm[200] = np.inf
    alarms = follow(telemetry(loss=decline(300), grad_norm=norm), ["non_finite"]).alarms
    assert [(row, a.kind, a.state) for row, a in alarms] == [
        (200, "non_finite", "open"),
        (201, "non_finite_gradient", "open"),
        (250, "non_finite_gradient", "settled"),
    ]


def test_a_column_that_leaves_the_positive_numbers_is_judged_on_the_linear_scale() -> None:
    norm = calm_norm(900)
    norm[400] = 0.0
    norm[600:603] = 40.0
    t = telemetry(grad_norm=norm)
    assert follow(t).settled == offline(t) != set()


@pytest.mark.parametrize("back_to", [450, 40, 0])
def test_after_a_rollback_it_reports_what_the_remaining_history_shows(back_to: int) -> None:
    loss, norm, lr = decline(1_200), calm_norm(1_200), np.full(1_200, 1e-3)
    history = telemetry(loss=loss, grad_norm=norm, lr=lr)
    spoiled = loss.copy()
    spoiled[500:] += 3.0
    watching = live()
    for step in range(600):
        watching.add_row(
            step, {"loss": float(spoiled[step]), "grad_norm": float(norm[step]), "lr": 1e-3 / (1 + step % 2)}
        )
    watching.rewind_to(back_to)
    loss[800:804] += 2.0
    alarms = [
        alarm
        for step in range(back_to, 1_200)
        for alarm in watching.add_row(step, {"loss": float(loss[step]), "grad_norm": float(norm[step]), "lr": 1e-3})
    ]
    alarms += watching.end()
    history = telemetry(loss=loss, grad_norm=norm, lr=lr)
    assert {(a.detector, a.kind, a.column, a.onset_step) for a in alarms if a.state == "settled"} == offline(history)


@settings(max_examples=60, deadline=None)
@example([math.inf, *[0.0] * 60], 1)
@example([0.0] * 5 + [-8.9e307], 1)
@example([2.5, math.nan, *[0.0] * 60], 1)
@given(any_values(150), st.integers(1, 50))
def test_any_values_at_all_end_without_an_open_alarm(values: list[float], every: int) -> None:
    columns = ("loss", "grad_norm", "lr", "update_rms", "loss_scale", "skipped")
    followed = follow(telemetry(every=every, **dict.fromkeys(columns, values)))
    assert all(alarm.state != "open" for alarm in followed.last.values())


def test_rows_that_are_no_numbers_or_out_of_order_are_ignored() -> None:
    watching = live()
    for step in (0, 1, 1, 0, 2):
        assert watching.add_row(step, {"loss": "2.0", "lr": None, "grad_norm": [1.0], "loss_scale": {}}) == ()
    assert watching.end() == []


@pytest.mark.slow
def test_memory_does_not_grow_with_the_run() -> None:
    watching, rng = live(), np.random.default_rng(0)
    grown: list[int] = []
    tracemalloc.start()
    for step in range(30_000):
        watching.add_row(step, {"loss": 2.0 + 0.05 * rng.standard_normal(), "grad_norm": rng.random() + 1, "lr": 1e-3})
        if step % 10_000 == 9_999:
            grown.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert grown[2] - grown[1] < 50_000
