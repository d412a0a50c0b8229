"""Detectors: from arrays to incidents.

    find_incidents(t)                      every detector of this package, grouped, worst first
    find_incidents(t, mode="watchdog")     only the rolling-baseline watchdog (see `_watchdog`)
    live()                                 the same detectors row by row, where they have a live face

A detector is one public file holding `DETECTOR = Detector(...)`; it sees a `Telemetry`, or row after row, and nothing
else.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from functools import cache
from typing import Literal

import numpy as np

from postmortem.detectors import _group
from postmortem.detectors._live import LiveDetectors
from postmortem.detectors._model import (
    DIVERGED,
    LINGERING,
    RECOVERED,
    SETTLE_ROWS,
    UNRESOLVED,
    Alarm,
    Detector,
    Finding,
    Incident,
    Row,
    Stream,
    Telemetry,
)
from postmortem.detectors._watchdog import Watchdog
from postmortem.discovery import discover

__all__ = [
    "DIVERGED",
    "LINGERING",
    "RECOVERED",
    "SETTLE_ROWS",
    "UNRESOLVED",
    "Alarm",
    "Detector",
    "Finding",
    "Incident",
    "LiveDetectors",
    "Row",
    "Stream",
    "Telemetry",
    "Watchdog",
    "detectors",
    "find_incidents",
    "live",
]


@cache
def detectors() -> tuple[Detector, ...]:
    """Every detector of this package, by name of its file."""
    return discover(sys.modules[__name__], "DETECTOR", Detector)


def live(names: Collection[str] | None = None) -> LiveDetectors:
    """The detectors that have a live face, or those of `names`, ready for a run's first row."""
    return LiveDetectors(d for d in detectors() if names is None or d.name in names)


def find_incidents(
    t: Telemetry, *, mode: Literal["all", "watchdog"] = "all", checkpoints: Sequence[int] = ()
) -> tuple[Incident, ...]:
    """All incidents of a run, worst first. Unknown columns are ignored; an empty run has none.

    In mode "watchdog" only a held loss level counts; `checkpoints` are the steps its rollback may go to.
    """
    if t.row_steps.size == 0:
        return ()
    found = (Watchdog(checkpoints=checkpoints).find,) if mode == "watchdog" else tuple(d.find for d in detectors())
    # A log may hold any float: 1e308 beside -1e308 is a finding, not a warning on stderr.
    with np.errstate(all="ignore"):
        return _group.incidents(t, [f for find in found for f in find(t)])
