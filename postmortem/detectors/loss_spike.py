"""Sudden loss excursions: robust z on the detrended loss."""

from __future__ import annotations

from collections.abc import Iterator

from postmortem.detectors._excursion import excursions, finding, shape_kind
from postmortem.detectors._model import RECOVERED, Detector, Finding, Telemetry
from postmortem.detectors._screen import Rule, signal

RULE = Rule(sigmas=7.0, floor=0.03, opening=0.15)
_BRIEF_ROWS, _SURE_SIGMAS = 16, 12.0
"""An excursion that is gone within this many rows is a hard batch more often than an incident: it opens one only where
it is this far out or this high (`opening`: 15 %)."""


def _find(t: Telemetry) -> Iterator[Finding]:
    series = t.series("loss")
    s = signal(series) if series is not None else None
    if s is None:
        return
    for e in excursions(s, RULE):
        height = float(s.y[e.onset + e.settled.peak]) - e.center
        brief = e.settled.outcome == RECOVERED and (e.settled.recovery or 0) <= _BRIEF_ROWS
        opens = not brief or height >= RULE.opening * s.unit or height >= _SURE_SIGMAS * e.scale
        yield finding(s, e, "loss_spike", shape_kind(e, "loss_spike", "level_shift", "divergence"), opens)


DETECTOR = Detector("loss_spike", ("loss_spike", "level_shift", "divergence"), _find)
