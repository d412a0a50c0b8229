"""Training that does nothing: no update changes the parameters, or nothing that is logged of them changes.

A rate or a gradient norm of exactly zero in every row, every update skipped, or one and the same hash of the
parameters say so. Columns that were never measured hold such values, too, and so does a rate that was rounded to
0.0000: so the loss must not be learning (of one that is not positive, as in RL, nobody can tell). A rate that is zero
in its first row, or in the last ones, is a schedule.

A loss that is the same to the bit says so by itself, where the log's rounding leaves room for noise.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import DIVERGED, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._screen import FEWEST_LOSS_ROWS
from postmortem.incident import Kind
from postmortem.series import Series
from postmortem.stats import MEDIAN_ERROR, noise_sigma, robust_sigma, rounding

FROZEN_ROWS, FROZEN_TIMES = 20, 5
"""Rows to the end of the log in which the loss is the same, and their multiple of the longest such stretch before: some
loggers repeat the last value until there is a new one."""

DIGITS = 1_000.0
"""Units of the last digit that a frozen loss must have: one of 0.01 that is logged with two decimals may well vary."""

_LEARNING_SIGMAS, _LEARNING_SHARE = 4.0, 0.02
"""A loss learns where its last third is lower than its first by 4 standard errors, or by 2 %."""

Values = NDArray[np.float64]
Steps = NDArray[np.int64]

KIND = Kind("no_training", "training that does nothing", "cause", "nothing")


def _detect(t: Telemetry) -> Iterator[Finding]:
    loss = t.series("loss")
    if loss is None:
        return
    finite = np.isfinite(loss.value)
    loss = Series("loss", loss.step[finite], loss.value[finite])
    if len(loss) < FEWEST_LOSS_ROWS or not loss.value.any():
        return
    if loss.value.min() > 0 and not _learns(loss.value):
        for name in ("lr", "grad_norm"):
            column = t.series(name)
            if column is not None and len(column) >= FEWEST_LOSS_ROWS and not column.value.any():
                yield _finding(name, column.step, 0, 0.0)
        skipped = t.series("skipped")
        if skipped is not None and len(skipped) >= FEWEST_LOSS_ROWS and (skipped.increments().value[1:] > 0).all():
            yield _finding("skipped", skipped.step, 0, 1.0)
        hashes = t.labels("param_hash")
        known = [] if hashes is None else [str(value) for value in hashes[1] if value is not None]
        if hashes is not None and len(known) >= FEWEST_LOSS_ROWS and len(set(known)) == 1:
            yield _finding("param_hash", hashes[0], 0, float("nan"))
    row = _frozen_from(loss.value)
    if row is not None:
        yield _finding("loss", loss.step, row, float(loss.value[-1]))


def _learns(loss: Values) -> bool:
    """Whether a loss, positive float64[n], falls from its first third to its last."""
    third = loss.size // 3
    first, last = loss[:third], loss[-third:]
    fall = float(np.median(first) - np.median(last))
    sigma = max(noise_sigma(loss), robust_sigma(last))
    error = MEDIAN_ERROR * sigma * np.sqrt(2 / third)
    return fall > min(_LEARNING_SIGMAS * error, _LEARNING_SHARE * float(np.median(first)))


def _frozen_from(loss: Values) -> int | None:
    """The row from which on a loss is the same to the last digit, until the log ends; None where it is not."""
    value = float(loss[-1])
    starts = np.flatnonzero(np.diff(loss, prepend=np.inf) != 0)
    first = int(starts[-1])
    before = int(np.diff(starts).max(initial=0))
    if value == 0 or loss.size - first < max(FROZEN_ROWS, FROZEN_TIMES * before):
        return None
    return first if abs(value) >= DIGITS * rounding(loss) else None


def _finding(column: str, step: Steps, row: int, value: float) -> Finding:
    return Finding(
        detector="no_training",
        kind=KIND.slug,
        column=column,
        onset_step=int(step[row]),
        onset_interval=onset_interval(step, row),
        peak_step=int(step[row]),
        recovery_step=None,
        peak=value,
        baseline=float("nan"),
        scale=0.0,
        score=float("inf"),
        settled=value,
        outcome=DIVERGED,
        figures={"rows": float(step.size - row), "value": value},
    )


DETECTOR = Detector(
    "no_training",
    (KIND,),
    _detect,
    no_stream="That nothing was trained in any row is known when the log ends.",
)
