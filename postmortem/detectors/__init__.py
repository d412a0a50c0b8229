"""Detectors: from arrays to incidents.

    find_incidents(t)                      every detector of this package, grouped, worst first
    find_incidents(t, mode="watchdog")     only the rolling-baseline watchdog (see `_watchdog`)

A detector is one public file holding `DETECTOR = Detector(...)`; it sees a `Telemetry` and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np

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
from postmortem.detectors._watchdog import Watchdog
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
    "Watchdog",
    "detectors",
    "find_incidents",
]


@cache
def detectors() -> tuple[Detector, ...]:
    """Every detector: this package's by name of its file, then those of entry points."""
    return discover(sys.modules[__name__], "DETECTOR", Detector, group="postmortem.detectors", unique=("name",))


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
