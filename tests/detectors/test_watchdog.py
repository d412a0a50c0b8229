"""The watchdog mode, and the defects of simpler rules that it does not have."""

from __future__ import annotations

import numpy as np
import pytest

from postmortem.detectors import Watchdog, find_incidents
from tests.detectors.helpers import decline, telemetry
from tests.detectors.test_incidents import worked_example


def test_it_sees_the_worked_example() -> None:
    loss, _ = worked_example(0.01)
    (incident,) = find_incidents(telemetry(loss=loss), mode="watchdog")
    assert incident.onset_step == 313
    assert incident.findings[0].figures["rollback_to_step"] == 213


def test_one_easy_batch_does_not_poison_it() -> None:
    loss = decline(1500)
    loss[600] = 0.1
    assert find_incidents(telemetry(loss=loss), mode="watchdog") == ()


def test_a_permanent_nan_fires_it() -> None:
    loss = decline(600)
    loss[400:] = np.nan
    (incident,) = find_incidents(telemetry(loss=loss), mode="watchdog")
    assert (incident.kind, incident.onset_step, incident.outcome) == ("non_finite", 400, "diverged")


def test_a_single_spike_does_not_fire_it() -> None:
    loss = decline(600)
    loss[400] *= 3
    assert find_incidents(telemetry(loss=loss), mode="watchdog") == ()


def test_rows_and_steps_both_count_as_sustained() -> None:
    loss = decline(600)
    loss[400:405] *= 3
    assert find_incidents(telemetry(loss=loss, every=10), mode="watchdog") == ()
    loss[400:412] *= 3
    assert len(find_incidents(telemetry(loss=loss, every=10), mode="watchdog")) == 1


def test_the_rollback_goes_to_a_checkpoint_before_the_margin() -> None:
    dog = Watchdog(checkpoints=(0, 100, 250, 300))
    assert dog.rollback_step(313) == 100
    assert Watchdog(checkpoints=(300,)).rollback_step(313) is None
    assert Watchdog().rollback_step(40) == 0


SEED = Watchdog(ratio=5.0, sustain=100, history=1_000)


def held(factor: float, rows: int, since: int = 1_200) -> np.ndarray:
    loss = decline(1_600)
    loss[since : since + rows] *= factor
    return loss


@pytest.mark.parametrize(
    ("factor", "rows", "dog", "found"),
    [
        (6.0, 120, SEED, True),
        (6.0, 90, SEED, False),
        (4.0, 120, SEED, False),
        (4.0, 120, Watchdog(ratio=3.0, sustain=100), True),
        (6.0, 90, Watchdog(ratio=5.0, sustain=80), True),
    ],
)
def test_its_settings_decide_with_those_of_the_simple_rule_among_them(
    factor: float, rows: int, dog: Watchdog, found: bool
) -> None:
    incidents = find_incidents(telemetry(loss=held(factor, rows)), mode=dog)
    assert [i.onset_step for i in incidents] == [1_200] * found
    if found:
        assert incidents[0].findings[0].figures["rollback_to_step"] == 1_100
        assert incidents[0].findings[0].figures["skip_batches"] == 200


def test_a_short_history_follows_a_fall_that_a_long_one_hides() -> None:
    loss = 100 * np.exp(-np.arange(400) / 60)
    loss[300:330] *= 2
    assert find_incidents(telemetry(loss=loss), mode=Watchdog(history=1_000)) == ()
    (incident,) = find_incidents(telemetry(loss=loss), mode=Watchdog(history=20))
    assert incident.onset_step == 300


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"ratio": 1.0}, "ratio"), ({"ratio": float("nan")}, "ratio"), ({"ratio": float("inf")}, "ratio"),
        ({"sustain": 0}, "sustain"), ({"history": 3}, "history"), ({"history": 10**9}, "history"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_by_name(settings: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} .*expected a number"):
        Watchdog(**settings)


def test_a_nan_is_reported_at_the_simple_values_before_any_baseline_and_from_step_0() -> None:
    late = decline(600)
    late[-3:] = np.nan  # the run ended before `sustain` rows
    early = decline(600)
    early[20:] = np.nan
    first = np.full(50, np.nan)
    for loss, onset in ((late, 597), (early, 20), (first, 0)):
        (incident,) = find_incidents(telemetry(loss=loss), mode=SEED)
        assert (incident.kind, incident.onset_step, incident.outcome) == ("non_finite", onset, "diverged")
    passing = decline(600)
    passing[300:303] = np.nan
    assert find_incidents(telemetry(loss=passing), mode=SEED) == (), "it came back by itself, within `sustain` rows"


@pytest.mark.parametrize("column", ["grad_norm", "param_norm"])
def test_the_update_that_wrote_the_nan_is_the_onset(column: str) -> None:
    loss, norm = decline(600), np.ones(600)
    loss[400:] = np.nan
    norm[400:] = np.nan
    (at_once,) = find_incidents(telemetry(loss=loss, **{column: norm}), mode="watchdog")
    norm[399] = np.nan
    (before,) = find_incidents(telemetry(loss=loss, **{column: norm}), mode="watchdog")
    assert (at_once.onset_step, before.onset_step, before.peak_step) == (400, 399, 400)


def test_how_close_a_loss_comes_is_measured() -> None:
    loss = decline(600)
    loss[400:403] *= 3
    seen = Watchdog().closest(telemetry(loss=loss))
    assert seen is not None and (seen.rows, seen.longest, seen.longest_from) == (600, 3, 400)
    assert 400 <= seen.step <= 402 and 2.5 < seen.ratio < 3.5
    short = Watchdog().closest(telemetry(loss=loss[:50]))
    assert short is not None and (short.judged, short.longest) == (0, 0)
    assert Watchdog().closest(telemetry(grad_norm=loss)) is None
