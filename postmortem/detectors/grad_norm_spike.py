"""Gradient-norm spikes: the panel that moves first, up to eight steps ahead of the loss."""

from __future__ import annotations

from collections.abc import Iterator

from postmortem.detectors._excursion import excursions, finding
from postmortem.detectors._model import Detector, Finding, Telemetry
from postmortem.detectors._screen import Rule, signal

RULE = Rule(sigmas=7.0, floor=1.1, opening=1.7)
"""Three times the baseline supports an incident, five and a half times opens one: gradient norms are heavy-tailed, and
one clipped step is no incident."""


def _find(t: Telemetry) -> Iterator[Finding]:
    series = t.series("grad_norm")
    s = signal(series) if series is not None else None
    if s is None:
        return
    for e in excursions(s, RULE):
        height = float(s.y[e.onset + e.settled.peak]) - e.center
        yield finding(s, e, "grad_norm_spike", "grad_norm_spike", opens=height >= RULE.opening * s.unit)


DETECTOR = Detector("grad_norm_spike", ("grad_norm_spike",), _find)
