"""Sudden loss excursions: robust z on the detrended loss."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from postmortem.detectors._excursion import (
    LOSS_KINDS,
    Excursion,
    LiveSearch,
    excursions,
    finding,
    opens_alone,
    shape_kind,
)
from postmortem.detectors._model import RECOVERED, Detector, Finding, Telemetry
from postmortem.detectors._screen import Rule, ScreenedColumn, signal
from postmortem.detectors._tracking import ColumnStream

RULE = Rule(sigmas=7.0, floor=0.03, opening=0.15)
_BRIEF_ROWS, _SURE_SIGMAS = 16, 12.0
"""An excursion that is gone within this many rows is a hard batch more often than an incident: it opens one only where
it is this far out or this high (`opening`: 15 %)."""


def _find(t: Telemetry) -> Iterator[Finding]:
    """On the log scale first, on which a falling loss has even noise; then on the linear one for what is left.

    The mean over few samples has noise that is even on the linear scale. There the logarithm stretches what lies below
    the baseline and squeezes what lies above it, and a loss that doubles passes for noise.
    """
    series = t.series("loss")
    first = signal(series) if series is not None else None
    if series is None or first is None:
        return
    seen: list[tuple[int, int]] = []
    for s in filter(None, (first, signal(series, log=False) if first.log else None)):
        for e in excursions(s, RULE):
            rows = e.onset, e.onset + max(e.settled.end, 1)
            if any(rows[0] < end and start < rows[1] for start, end in seen):
                continue
            seen.append(rows)
            yield finding(s, e, "loss_spike", *_judge(s, e))


def _judge(s: ScreenedColumn, e: Excursion) -> tuple[str, bool]:
    """Kind, and whether it opens an incident."""
    sure = float(s.y[e.onset + e.settled.peak]) - e.center >= _SURE_SIGMAS * e.scale
    brief = e.settled.outcome == RECOVERED and (e.settled.recovery or 0) <= _BRIEF_ROWS
    return shape_kind(e, "loss_spike", "level_shift", "divergence"), not brief or sure or opens_alone(s, e, RULE)


def _stream() -> ColumnStream:
    return ColumnStream("loss_spike", "loss", partial(LiveSearch, RULE), _judge, linear=True)


DETECTOR = Detector("loss_spike", LOSS_KINDS, _find, _stream)
