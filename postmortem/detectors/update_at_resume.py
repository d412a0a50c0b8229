"""An update that is another in the first row after a resume, although the gradient is not: other moments made it.

The update RMS is divided by the rate. So only the gradient and the optimizer's state are left to change it. Moments
that begin at zero are estimated again within some rows; until then, momentum SGD and Lion step less far, and Adam steps
further or less far, as its betas have it. How far one row departs from those before it without a resume, the rows of
the past show.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from postmortem.detectors._model import Detector, Finding, Telemetry
from postmortem.detectors._screen import screened_column
from postmortem.detectors._steps import RETURN_ROWS, jump_finding
from postmortem.detectors.optimizer_state import KIND
from postmortem.stats import median, robust_sigma

COLUMN = "update_rms"
LEVEL_ROWS, FEWEST_ROWS, PAST_ROWS = 12, 8, 200
"""Rows whose median is the level before a row; the fewest and the most rows that show how far one departs from it."""

SIGMAS, BEYOND, FLOOR = 4.0, 1.5, 0.02
"""What the row at a resume must exceed: sigmas of these departures, a multiple of the largest one, and 2 %."""

GRADIENT_SHARE, BACK_SHARE = 0.5, 0.25
"""Shares of the change, in log units: that the gradient norm of the same row may make of it, where it departs by two
sigmas itself; and that is left where the update is back."""

Values = NDArray[np.float64]


def _detect(t: Telemetry) -> Iterator[Finding]:
    s = screened_column(t.series(COLUMN)) if t.restarts else None
    if s is None or not s.log:
        return
    for row in sorted({int(row) for row in np.searchsorted(s.step, np.asarray(t.restarts, dtype=np.int64))}):
        departures = _departures(s.y, row)
        if departures is None:
            continue
        change, usual = float(departures[-1]), departures[:-1]
        sigma = robust_sigma(usual, 0.0)
        least = max(SIGMAS * sigma, BEYOND * float(np.abs(usual).max()), FLOOR)
        if abs(change) < least or abs(_gradient_change(t, int(s.step[row]))) > GRADIENT_SHARE * abs(change):
            continue
        level = float(s.y[row]) - change
        yield jump_finding(
            s,
            row,
            change,
            detector="update_at_resume",
            kind=KIND.slug,
            usual=max(sigma, FLOOR / SIGMAS),
            score=abs(change) / max(sigma, FLOOR / SIGMAS),
            is_back=np.abs(s.y[row : row + RETURN_ROWS] - level) <= BACK_SHARE * abs(change),
        )


def _departures(y: Values, row: int) -> Values | None:
    """How far each row of the past, and `row` last, is from the median of the rows before it; None where they are few.

    The first rows have no level, and those after them have one that falls or rises with the warmup.
    """
    first = max(row - PAST_ROWS, LEVEL_ROWS)
    if row >= y.size or row - first < FEWEST_ROWS:
        return None
    levels = median(sliding_window_view(y[first - LEVEL_ROWS : row], LEVEL_ROWS), axis=1)
    return y[first : row + 1] - levels


def _gradient_change(t: Telemetry, step: int) -> float:
    """How far the gradient norm of `step` departs from the rows before it, in log units; 0 where it does not, or is not
    logged."""
    norm = t.series("grad_norm")
    row = 0 if norm is None else int(np.searchsorted(norm.step, step))
    if norm is None or norm.at(step) is None or not (norm.value[: row + 1] > 0).all():
        return 0.0
    departures = _departures(np.log(norm.value[: row + 1]), row)
    if departures is None or abs(departures[-1]) < SIGMAS / 2 * robust_sigma(departures[:-1], 0.0):
        return 0.0
    return float(departures[-1])


DETECTOR = Detector(
    "update_at_resume", (KIND,), _detect, no_stream="A live loop that was resumed has not seen the rows before it."
)
