"""Sudden loss excursions: robust z on the detrended loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from postmortem.detectors._column_stream import ColumnStream
from postmortem.detectors._excursion import (
    LOSS_KINDS,
    Excursion,
    LiveExcursionSearch,
    excursion_finding,
    excursions,
    noise_runs,
    opens_incident,
    shape_kind,
    stands_out,
)
from postmortem.detectors._model import RECOVERED, Detector, Finding, Telemetry
from postmortem.detectors._screen import Rule, ScreenedColumn, screened_column

RULE = Rule(sigmas=7.0, floor=0.03, opening=0.15)
"""7 sigmas, because Gaussian noise never passes them, and 3 % (log units), because a smaller rise harms no run."""

_BRIEF_ROWS, _SURE_SIGMAS = 16, 12.0
"""An excursion that is over within 16 rows is more often a hard batch than an incident: it opens one only where it is
12 sigmas high, or `opening` (15 %)."""


def _detect(t: Telemetry) -> Iterator[Finding]:
    """First on the log scale, on which a falling loss has even noise; then on the linear one, for the other rows.

    The mean over few samples has noise that is even on the linear scale. There the logarithm stretches what is below
    the baseline and squeezes what is above it, and a loss that doubles looks like noise.
    """
    series, spans = t.series("loss"), list[tuple[int, int]]()
    smoothed = "loss" in t.smoothed
    s = screened_column(series, smoothed=smoothed)
    while s is not None:
        for e in excursions(s, RULE):
            span = e.onset, e.onset + max(e.course.end, 1)
            if any(span[0] < end and start < span[1] for start, end in spans):
                continue
            spans.append(span)
            yield excursion_finding(s, e, "loss_spike", *_judge(s, e), noise_runs(s, e, RULE))
        log, s = s.log, None  # of a long run, only one scale fits into memory beside the run
        s = screened_column(series, log=False, smoothed=smoothed) if log else None


def _judge(s: ScreenedColumn, e: Excursion) -> tuple[str, bool]:
    """Kind, and whether it opens an incident."""
    sure = e.height(s) >= _SURE_SIGMAS * e.scale
    brief = e.course.outcome == RECOVERED and (e.course.recovery or 0) <= _BRIEF_ROWS
    opens = stands_out(s, e) and (not brief or sure or opens_incident(s, e, RULE))
    return shape_kind(e, "loss_spike", "level_shift", "divergence"), opens


def _judge_alone(s: ScreenedColumn, e: Excursion) -> tuple[str, bool]:
    """Kind, and whether it opens an incident without another column."""
    kind, opens = _judge(s, e)
    return kind, opens and noise_runs(s, e, RULE) == math.inf


def _stream() -> ColumnStream:
    return ColumnStream("loss_spike", "loss", partial(LiveExcursionSearch, RULE), _judge_alone, linear=True)


DETECTOR = Detector("loss_spike", LOSS_KINDS, _detect, _stream)
