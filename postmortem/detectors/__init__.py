"""Detectors: from arrays to incidents.

    find_incidents(t)                      every detector of this package, grouped, worst first
    find_incidents(t, mode="watchdog")     only the rolling-baseline watchdog (see `_watchdog`)

A detector is one public file holding `DETECTOR = Detector(...)`; it sees a `Telemetry` and nothing else.
"""

from __future__ import annotations

import sys
from functools import cache

from postmortem.detectors import _group
from postmortem.detectors._model import (
    DIVERGED,
    LINGERING,
    RECOVERED,
    SETTLE_ROWS,
    UNRESOLVED,
    Detector,
    Finding,
    Incident,
    Telemetry,
)
from postmortem.discovery import discover

__all__ = [
    "DIVERGED",
    "LINGERING",
    "RECOVERED",
    "SETTLE_ROWS",
    "UNRESOLVED",
    "Detector",
    "Finding",
    "Incident",
    "Telemetry",
    "detectors",
    "find_incidents",
]


@cache
def detectors() -> tuple[Detector, ...]:
    """Every detector of this package, by name of its file."""
    return discover(sys.modules[__name__], "DETECTOR", Detector)


def find_incidents(t: Telemetry) -> tuple[Incident, ...]:
    """All incidents of a run, worst first. Unknown columns are ignored; an empty run has none."""
    if t.row_steps.size == 0:
        return ()
    return _group.incidents(t, (f for d in detectors() for f in d.find(t)))
