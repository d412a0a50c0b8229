"""The project's own generator of the detector scenarios: synthetic losses with one known fault each.

11 to 3 nats over 3,000 steps, sigma 0.03, the fault at step 2,000. `alarm_lag` is how late live monitoring would be.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors import DetectedIncident, find_incidents
from tests.detectors.helpers import telemetry

Values = NDArray[np.float64]

STEPS, FAULT_STEP, SIGMA = 3000, 2000, 0.03
WITHIN = 40
"""An incident belongs to the fault where its onset is this close to it."""


def _one_step(loss: Values, since: Values) -> None:
    loss[FAULT_STEP] += 1.0


def _decaying(loss: Values, since: Values) -> None:
    loss[FAULT_STEP:] += 1.5 * np.exp(-since[FAULT_STEP:] / 50.0)


def _doubling(loss: Values, since: Values) -> None:
    loss[FAULT_STEP] *= 2.2


def _slow_divergence(loss: Values, since: Values) -> None:
    loss[FAULT_STEP:] += np.minimum(0.01 * since[FAULT_STEP:], 3.0)


def _level_shift(loss: Values, since: Values) -> None:
    loss[FAULT_STEP:] += 0.3


def _spike_after_nan(loss: Values, since: Values) -> None:
    loss[FAULT_STEP - 100] = np.nan
    _decaying(loss, since)


def _second_spike(loss: Values, since: Values) -> None:
    loss[FAULT_STEP - 60 : FAULT_STEP - 58] += (3.0, 2.0)
    loss[FAULT_STEP] += 0.8


SCENARIOS: dict[str, Callable[[Values, Values], None] | None] = {
    "clean_gaussian": None,
    "clean_t4": None,
    "one_step": _one_step,
    "decaying": _decaying,
    "doubling": _doubling,
    "slow_divergence": _slow_divergence,
    "level_shift": _level_shift,
    "spike_after_nan": _spike_after_nan,
    "second_spike": _second_spike,
}
FAULTS = tuple(name for name, fault in SCENARIOS.items() if fault is not None)


def scenario(name: str, seed: int) -> tuple[Values, int | None]:
    """(loss float64[3000], fault step, or None where the scenario is clean)."""
    rng = np.random.default_rng(seed)
    step = np.arange(STEPS)
    noise = rng.standard_t(4, STEPS) if name == "clean_t4" else rng.standard_normal(STEPS)
    loss = 2.9 + 8.1 * np.exp(-step / 150) + 0.6 * np.exp(-step / 1500) + SIGMA * noise
    fault = SCENARIOS[name]
    if fault is None:
        return loss, None
    fault(loss, np.arange(STEPS, dtype=float) - FAULT_STEP)
    return loss, FAULT_STEP


def at_fault(incidents: tuple[DetectedIncident, ...], fault: int) -> list[DetectedIncident]:
    """The incidents that the fault explains."""
    return [i for i in incidents if abs(i.onset_step - fault) <= WITHIN]


def alarm_lag(loss: Values, fault: int, most: int = 100) -> int | None:
    """Rows from the fault step on (itself included) that a detector needs to see before it reports the fault: 1 where
    it does on the very row. None where it takes more than `most`."""
    for rows in range(1, most + 1):
        if at_fault(find_incidents(telemetry(loss=loss[: fault + rows])), fault):
            return rows
    return None
