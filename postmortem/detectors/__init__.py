"""Detectors: from the arrays of a run to its incidents.

    find_incidents(t)                      all detectors, their findings grouped, worst incident first
    find_incidents(t, mode="watchdog")     only the rolling-baseline watchdog (see `_watchdog`)
    live()                                 the same detectors row by row, where they have such a version

A detector is one public file that contains `DETECTOR = Detector(...)`; it reads a `Telemetry`, or row after row, and
nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from functools import cache

import numpy as np

from postmortem.detectors import _group
from postmortem.detectors._epochs import at_epoch_starts, epoch_starts
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
    LabelArrays,
    Row,
    Stream,
    Telemetry,
)
from postmortem.detectors._screen import FEWEST_LOSS_ROWS
from postmortem.detectors._watchdog import Closest, Mode, Watchdog, watchdog_mode, watchdog_of
from postmortem.detectors.epoch_steps import EpochSteps, epoch_level_steps
from postmortem.detectors.setting_change import BATCH_SIZES
from postmortem.discovery import discover, mistake
from postmortem.incident import Kind

__all__ = [
    "BATCH_SIZES",
    "DIVERGED",
    "FEWEST_LOSS_ROWS",
    "LINGERING",
    "RECOVERED",
    "SETTLE_ROWS",
    "UNRESOLVED",
    "Alarm",
    "Closest",
    "DetectedIncident",
    "Detector",
    "EpochSteps",
    "Finding",
    "LabelArrays",
    "LiveDetectors",
    "Mode",
    "Row",
    "Stream",
    "Telemetry",
    "Watchdog",
    "at_epoch_starts",
    "detectors",
    "epoch_level_steps",
    "epoch_starts",
    "find_incidents",
    "kinds",
    "live",
    "watchdog_mode",
    "watchdog_of",
]


@cache
def detectors() -> tuple[Detector, ...]:
    """Every detector: this package's in order of their file names, then those of entry points."""
    return discover(sys.modules[__name__], "DETECTOR", Detector, group="postmortem.detectors", unique=("name",))


@cache
def kinds() -> Mapping[str, Kind]:
    """Every kind of incident, by its slug.

    Raises:
        TypeError, BrokenPlugin: two detectors declare one slug differently.
    """
    by_slug: dict[str, Kind] = {}
    for detector in detectors():
        for kind in detector.kinds:
            if by_slug.setdefault(kind.slug, kind) != kind:
                message = f"declares {kind.slug} differently from another detector"
                raise mistake(detector, f"detector {detector.name}: {message}")
    return by_slug


def live(names: Collection[str] | None = None) -> LiveDetectors:
    """The row-by-row versions of all detectors, or of those in `names`, ready for a run's first row."""
    return LiveDetectors(d for d in detectors() if names is None or d.name in names)


def find_incidents(t: Telemetry, *, mode: Mode = "all") -> tuple[DetectedIncident, ...]:
    """All incidents of a run, worst first. Unknown columns are ignored; an empty run has none.

    In mode "watchdog", or with a `Watchdog` of other settings, only a loss that stays high counts.
    """
    if t.row_steps.size == 0:
        return ()
    kinds()  # raises where two detectors contradict each other
    watchdog = watchdog_of(mode)
    rules = detectors() if watchdog is None else (watchdog.detector,)
    # A log may hold any float: 1e308 beside -1e308 is a finding, not a warning on stderr.
    with np.errstate(all="ignore"):
        return _group.group_into_incidents(t, [f for rule in rules for f in rule.findings(t)])
