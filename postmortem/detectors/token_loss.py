"""Spikes of the worst token's loss: a few tokens go wrong before the mean shows it."""

from __future__ import annotations

from collections.abc import Iterator

from postmortem.detectors._excursion import excursions, finding
from postmortem.detectors._model import Detector, Finding, Telemetry
from postmortem.detectors._screen import Rule, signal

RULE = Rule(sigmas=9.0, floor=0.25, opening=0.7)
"""The maximum over a batch is an extreme value and skewed: it supports from 28 % up and opens at twice its level."""


def _find(t: Telemetry) -> Iterator[Finding]:
    series = t.series("token_loss_max")
    s = signal(series) if series is not None else None
    if s is None:
        return
    for e in excursions(s, RULE):
        height = float(s.y[e.onset + e.settled.peak]) - e.center
        yield finding(s, e, "token_loss", "token_loss_spike", opens=height >= RULE.opening * s.unit)


DETECTOR = Detector("token_loss", ("token_loss_spike",), _find)
