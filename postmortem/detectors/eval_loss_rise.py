"""An evaluation loss that leaves its past: it rises by half and more from one evaluation to the next.

Evaluations are few, so that noise is read from what the last ones rose, not from quantiles. Overfitting raises this
loss by a little in each evaluation: it is a choice of when to stop, no incident. So one step must exceed half of the
level, 0.3 nats, and four times the largest rise of the evaluations before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import (
    DIVERGED,
    RECOVERED,
    UNRESOLVED,
    Alarm,
    Detector,
    Finding,
    Row,
    Stream,
    Telemetry,
    onset_interval,
)
from postmortem.detectors._recent import RecentRows
from postmortem.incident import Kind
from postmortem.stats import median, rounding

COLUMN = "eval_loss"
MIN_ROWS, PAST_ROWS, LEVEL_ROWS = 3, 20, 4
"""The fewest evaluations before a rise, the most whose rises count, and those whose highest it must exceed."""

FACTOR, TIMES, DIGITS = 1.5, 4.0, 10.0
"""The least factor, multiple of the largest earlier rise, and units of the log's last digit."""

LEAST_RISE, SURE_TIMES, SURE_PAST = 0.3, 10.0, 8
"""Or nats per token, and a multiple of the largest rise among so many earlier ones, where no factor is needed."""

STEADY_ROWS, STEADY_FACTOR = 5, 2.0
"""Evaluations that all rise, and the factor by which they do together."""

BACK_SHARE = 0.25
"""The loss is back where at most a quarter of the rise is left."""

SURE_ROWS = 5
"""Evaluations from the rise on, none of which is back, that make it diverged."""

KIND = Kind("eval_loss_rise", "evaluation-loss rise")

Values = NDArray[np.float64]


def _detect(t: Telemetry) -> Iterator[Finding]:
    column = t.series(COLUMN)
    if column is None:
        return
    finite = np.isfinite(column.value)
    step, loss = column.step[finite], column.value[finite]
    row = MIN_ROWS
    while row < loss.size:
        lead = _rise(loss[max(row - PAST_ROWS, 0) : row], loss[row])
        if lead is None:
            row += 1
            continue
        onset = row - lead
        level = _level(loss[:onset])
        back = np.flatnonzero(loss[row:] <= level + BACK_SHARE * (loss[row] - level))
        end = row + int(back[0]) if back.size else loss.size
        yield _finding(step, loss, onset, end)
        row = end + 1


def _rise(past: Values, loss: float) -> int | None:
    """How many evaluations before this one a rise began that it shows; None where it does not leave those before it,
    float64[n]."""
    for rows, factor in ((1, FACTOR), (STEADY_ROWS, STEADY_FACTOR)):
        before, risen = past[: past.size - rows + 1], np.append(past[past.size - rows + 1 :], loss)
        if before.size < MIN_ROWS or (rows > 1 and not (np.diff(np.append(before[-1], risen)) > 0).all()):
            continue
        top = float(before[-LEVEL_ROWS:].max())
        rise, usual = loss - top, float(np.max(np.diff(before), initial=0.0))
        by_factor = top > 0 and loss >= factor * top and rise >= max(TIMES * usual, DIGITS * rounding(before))
        by_height = rows == 1 and before.size >= SURE_PAST and rise >= max(LEAST_RISE, SURE_TIMES * usual)
        if by_factor or by_height:
            return rows - 1
    return None


def _level(past: Values) -> float:
    """The level before a rise."""
    return float(median(past[-LEVEL_ROWS:]))


def _finding(step: NDArray[np.int64], loss: Values, row: int, end: int) -> Finding:
    """The rise at `row`; `end` is the row that is back, or the number of rows."""
    past = loss[max(row - PAST_ROWS, 0) : row]
    level, peak, back = _level(past), row + int(np.argmax(loss[row:end])), end < loss.size
    usual, rise = float(np.max(np.diff(past), initial=0.0)), float(loss[peak] - level)
    ratio = float(loss[peak]) / level if level > 0 else float("nan")
    return Finding(
        detector="eval_loss_rise",
        kind=KIND.slug,
        column=COLUMN,
        onset_step=int(step[row]),
        onset_interval=onset_interval(step, row),
        peak_step=int(step[peak]),
        recovery_step=int(step[end]) if back else None,
        peak=float(loss[peak]),
        baseline=level,
        scale=usual,
        score=rise / usual if usual else float("inf"),
        settled=None if back else float(median(loss[row:])),
        outcome=RECOVERED if back else DIVERGED if end - row >= SURE_ROWS else UNRESOLVED,
        figures={"height": float(np.log(ratio)) if level > 0 else rise, "ratio": ratio},
    )


class _Stream(Stream):
    """The last evaluations. A rise is settled at once: later ones do not change its kind."""

    def __init__(self) -> None:
        self._rows = RecentRows()
        self._back_below = -np.inf  # while the loss is up: where it is back
        self._onset = -1

    def add_row(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`."""
        past, steps = np.array(self._rows.values[-PAST_ROWS:]), [*self._rows.steps, step]
        loss = self._rows.add(step, row.get(COLUMN))
        if loss is None:
            return ()
        self._rows.drop_first(max(len(self._rows.values) - PAST_ROWS, 0))
        if self._onset >= 0:
            self._onset = -1 if loss <= self._back_below else self._onset
            return ()
        lead = _rise(past, loss)
        if lead is None:
            return ()
        level, onset = _level(past[: past.size - lead]), steps[-1 - lead]
        self._onset, self._back_below = onset, level + BACK_SHARE * (loss - level)
        return (Alarm("eval_loss_rise", KIND.slug, COLUMN, onset, step, state="settled"),)

    def end(self, step: int) -> Sequence[Alarm]:
        """Nothing: each evaluation decides."""
        return ()

    def rewind_to(self, step: int) -> None:
        """Forget the rows from `step` on."""
        self._rows.rewind(step)
        self._onset = self._onset if self._onset < step else -1


DETECTOR = Detector("eval_loss_rise", (KIND,), _detect, _Stream)
