"""An update that is another in the first row after a resume, although the gradient is not: other moments made it.

The update RMS is divided by the rate. So only the gradient and the optimizer's state are left to change it. Moments
that begin at zero are estimated again within some rows; until then, momentum SGD and Lion step less far, and Adam steps
further or less far, as its betas have it. At a resume one comparison is made, so that a small departure is no chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from postmortem.departure import measure_departure
from postmortem.detectors._model import Detector, Finding, Telemetry
from postmortem.detectors._screen import screened_column
from postmortem.detectors._steps import RETURN_ROWS, jump_finding
from postmortem.detectors.optimizer_state import KIND
from postmortem.series import Series

COLUMN = "update_rms"
PAST_ROWS, FEWEST_ROWS, SIGMAS = 20, 12, 4.0
"""Rows before a resume that show what is usual, and the fewest; and what a departure must exceed, beside each one that
they show: at a known place, 4 sigmas are passed by chance once in 30,000 resumes."""

GRADIENT_SHARE, BACK_SHARE = 0.5, 0.25
"""Shares of the change, in log units: that the gradient norm of the same row may make of it, where it departs by two
sigmas; and that is left where the update is back."""


def _detect(t: Telemetry) -> Iterator[Finding]:
    s = screened_column(t.series(COLUMN)) if t.restarts else None
    if s is None or not s.log:
        return
    for row in sorted({int(row) for row in np.searchsorted(s.step, np.asarray(t.restarts, dtype=np.int64))}):
        if row >= s.y.size or row < FEWEST_ROWS:
            continue
        before, first = slice(max(row - PAST_ROWS, 0), row), slice(row, row + 1)
        d = measure_departure(
            Series(COLUMN, s.step[before], s.raw[before]), Series(COLUMN, s.step[first], s.raw[first])
        )
        change = float(s.y[row]) - math.log(d.baseline)
        if (
            abs(d.z) < SIGMAS
            or d.beyond <= 1
            or abs(_gradient_change(t, int(s.step[row]))) > GRADIENT_SHARE * abs(change)
        ):
            continue
        rest = np.abs(s.y[row : row + RETURN_ROWS] - math.log(d.baseline))
        yield jump_finding(
            s,
            row,
            change,
            detector="update_at_resume",
            kind=KIND.slug,
            usual=abs(change / d.z),
            score=abs(d.z),
            is_back=rest <= BACK_SHARE * abs(change),
        )


def _gradient_change(t: Telemetry, step: int) -> float:
    """How far the gradient norm of `step` departs from the rows before it, in log units; 0 where it does not, or is not
    logged."""
    norm = t.series("grad_norm")
    end = 0 if norm is None else int(np.searchsorted(norm.step, step))
    if norm is None or end < FEWEST_ROWS or norm.at(step) is None:
        return 0.0
    before, here = slice(max(end - PAST_ROWS, 0), end), slice(end, end + 1)
    if not np.isfinite(norm.value[before]).all():
        return 0.0
    d = measure_departure(
        Series(norm.name, norm.step[before], norm.value[before]), Series(norm.name, norm.step[here], norm.value[here])
    )
    return math.log(d.ratio) if abs(d.z) >= SIGMAS / 2 and d.ratio > 0 else 0.0


DETECTOR = Detector(
    "update_at_resume", (KIND,), _detect, no_stream="A live loop that was resumed has not seen the rows before it."
)
