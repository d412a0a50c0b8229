"""Detectors: from arrays to incidents.

    find_incidents(t)                      every detector there is, grouped, worst first
    find_incidents(t, mode="watchdog")     only the rolling-baseline watchdog (see `_watchdog`)
    live()                                 the same detectors row by row, where they have a live face

A detector is one public file holding `DETECTOR = Detector(...)`; it sees a `Telemetry`, or row after row, and nothing
else.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
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
    DetectedIncident,
    Detector,
    Finding,
    Row,
    Stream,
    Telemetry,
)
from postmortem.detectors._watchdog import Watchdog, watchdog
from postmortem.discovery import discover, mistake
from postmortem.incident import Kind

__all__ = [
    "DIVERGED",
    "LINGERING",
    "RECOVERED",
    "SETTLE_ROWS",
    "UNRESOLVED",
    "Alarm",
    "DetectedIncident",
    "Detector",
    "Finding",
    "LiveDetectors",
    "Row",
    "Stream",
    "Telemetry",
    "Watchdog",
    "detectors",
    "find_incidents",
    "kinds",
    "live",
]


@cache
def detectors() -> tuple[Detector, ...]:
    """Every detector: this package's by name of its file, then those of entry points."""
    return discover(sys.modules[__name__], "DETECTOR", Detector, group="postmortem.detectors", unique=("name",))


@cache
def kinds() -> Mapping[str, Kind]:
    """Every kind of incident, by its slug. Raises TypeError, or BrokenPlugin, where two detectors declare one slug
    differently."""
    found: dict[str, Kind] = {}
    for detector in detectors():
        for kind in detector.kinds:
            if found.setdefault(kind.slug, kind) != kind:
                said = f"declares {kind.slug} otherwise than another one does"
                raise mistake(detector, f"detector {detector.name}: {said}")
    return found


def live(names: Collection[str] | None = None) -> LiveDetectors:
    """The detectors that have a live face, or those of `names`, ready for a run's first row."""
    return LiveDetectors(d for d in detectors() if names is None or d.name in names)


def find_incidents(
    t: Telemetry, *, mode: Literal["all", "watchdog"] = "all", checkpoints: Sequence[int] = ()
) -> tuple[DetectedIncident, ...]:
    """All incidents of a run, worst first. Unknown columns are ignored; an empty run has none.

    In mode "watchdog" only a held loss level counts; `checkpoints` are the steps its rollback may go to.
    """
    if t.row_steps.size == 0:
        return ()
    kinds()  # a detector that contradicts another is told of before anything is found
    rules = (watchdog(checkpoints),) if mode == "watchdog" else detectors()
    # A log may hold any float: 1e308 beside -1e308 is a finding, not a warning on stderr.
    with np.errstate(all="ignore"):
        return _group.incidents(t, [f for rule in rules for f in rule.findings(t)])
