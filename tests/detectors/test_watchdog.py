"""The watchdog mode, and the defects of simpler rules that it does not have."""

from __future__ import annotations

import numpy as np

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
