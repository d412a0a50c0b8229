"""Spikes of the update RMS (update RMS ÷ lr): the optimizer stepped further than it does."""

from __future__ import annotations

from collections.abc import Iterator

from postmortem.detectors._excursion import excursions, finding
from postmortem.detectors._model import Detector, Finding, Telemetry
from postmortem.detectors._screen import Rule, signal

RULE = Rule(sigmas=7.0, floor=0.4, opening=0.7)
"""Half as much again supports an incident, twice opens one: Adam's update RMS ÷ lr is tight around its own level."""


def _find(t: Telemetry) -> Iterator[Finding]:
    series = t.series("update_rms")
    s = signal(series) if series is not None else None
    if s is None:
        return
    for e in excursions(s, RULE):
        height = float(s.y[e.onset + e.settled.peak]) - e.center
        yield finding(s, e, "update_rms", "update_rms_spike", opens=height >= RULE.opening * s.unit)


DETECTOR = Detector("update_rms", ("update_rms_spike",), _find)
