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
PAST_ROWS, FEWEST_ROWS, SIGMAS = 40, 12, 4.0
"""Rows before a resume that show what is usual, and the fewest; and what a departure must exceed, beside each one that
they show: at a known place, 4 sigmas are passed by chance once in 30,000 resumes."""

GRADIENT_SHARE, BACK_SHARE = 0.5, 0.25
"""Shares of the change, in log units: that the gradient norm of the same row may make of it, and that is left where the
update is back."""


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
    """The change of the gradient norm at `step` against the rows before it, in log units; 0 where it is not logged."""
    norm = t.series("grad_norm")
    value = None if norm is None else norm.at(step)
    if norm is None or value is None or not value > 0:
        return 0.0
    end = int(np.searchsorted(norm.step, step))
    past = norm.value[max(end - PAST_ROWS, 0) : end]
    past = past[np.isfinite(past) & (past > 0)]
    usual = float(np.median(past)) if past.size else value
    low, high = (float(np.quantile(past, q)) for q in (0.05, 0.95)) if past.size else (usual, usual)
    return 0.0 if low <= value <= high else math.log(value / usual)


DETECTOR = Detector(
    "update_at_resume", (KIND,), _detect, no_stream="A live loop that was resumed has not seen the rows before it."
)
