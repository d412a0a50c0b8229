"""Training that does nothing: no update changes the parameters, or nothing that is logged of them changes.

A rate or a gradient norm of exactly zero in every row, every update skipped, or one and the same hash of the
parameters say so. Columns that were never measured hold such values, too, and so does a rate that was rounded to
0.0000: so the loss must not be learning (of one that is not positive, as in RL, nobody can tell). A rate that is zero
in its first row, or in the last ones, is a schedule.

A loss that is the same to the bit says so by itself, where the log's rounding leaves room for noise. So do parameters
that changed with each update and from some row on do not change by a digit any more, while the rate is not zero.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import DIVERGED, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._screen import FEWEST_LOSS_ROWS
from postmortem.incident import Kind
from postmortem.series import Series
from postmortem.stats import MEDIAN_ERROR, median, noise_sigma, robust_sigma, rounding

FROZEN_ROWS, FROZEN_TIMES = 20, 5
"""Rows to the end of the log in which the loss is the same, and their multiple of the longest such stretch before: some
loggers repeat the last value until there is a new one."""

DIGITS = 1_000.0
"""Units of the last digit that a frozen loss must have: one of 0.01 that is logged with two decimals may well vary."""

NORM_DIGITS = 100_000.0
"""The same for a norm of the parameters: an update changes its fifth or sixth digit, and a norm that settles is
the same in fewer digits for long."""

LOW_RATE = 1e-3
"""Share of the highest rate below which a schedule has run out: what an update still changes may be rounded away."""

_LEARNING_SIGMAS, _LEARNING_SHARE = 4.0, 0.02
"""A loss learns where its last third is lower than its first by 4 standard errors, or by 2 %."""

_TIMES_LARGER = 1e3
"""A norm of parameters that is so many times what it was has not grown: an element of it is another number."""

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
    learns = loss.value.min() <= 0 or _learns(loss.value)
    if not learns:
        for name in ("lr", "grad_norm"):
            column = t.series(name)
            if column is not None and len(column) >= FEWEST_LOSS_ROWS and not column.value.any():
                yield _finding(name, column.step, 0, 0.0)
        skipped = t.series("skipped")
        if skipped is not None and len(skipped) >= FEWEST_LOSS_ROWS and (skipped.increments().value[1:] > 0).all():
            yield _finding("skipped", skipped.step, 0, 1.0)
    yield from _parameters(t, learns)
    row = _frozen_from(loss.value, DIGITS)
    if row is not None:
        yield _finding("loss", loss.step, row, float(loss.value[-1]))


def _parameters(t: Telemetry, learns: bool) -> Iterator[Finding]:
    """Parameters that do not change from some row on; from the first one on only where the loss does not learn, either:
    else the column was not measured."""
    hashes, norm = t.labels("param_hash"), t.series("param_norm")
    if hashes is not None:
        known = np.array([value is not None for value in hashes[1]], dtype=bool)
        step, value = hashes[0][known], hashes[1][known].astype(str)
        row = _same_from(np.append(True, value[1:] != value[:-1])) if step.size >= FEWEST_LOSS_ROWS else None
        if row is not None and (_goes_on(t, int(step[row])) if row else not learns):
            yield _finding("param_hash", step, row, float("nan"))
    if norm is not None and np.isfinite(norm.value).all() and len(norm) >= FEWEST_LOSS_ROWS:
        row = _frozen_from(norm.value, NORM_DIGITS)
        if row is not None and (_goes_on(t, int(norm.step[row])) if row else not learns):
            yield _finding("param_norm", norm.step, row, float(norm.value[-1]))


def _goes_on(t: Telemetry, first: int) -> bool:
    """Whether the training goes on from step `first` on, so that its parameters should move."""
    return _rate_left(t, first) and not _destroyed(t, first)


def _destroyed(t: Telemetry, first: int) -> bool:
    """Whether the parameters stand still because their numbers are gone: NaN, or so large that no update changes a
    digit of them."""
    loss, norm = t.series("loss"), t.series("param_norm")
    gone = loss is not None and not np.isfinite(loss.window(first, int(loss.step[-1]) + 1).value).all()
    if gone or norm is None:
        return gone
    row = int(np.searchsorted(norm.step, first))
    before, since = norm.value[:row], norm.value[row:]
    return not np.isfinite(since).all() or bool(before.size and since.max(initial=0.0) > _TIMES_LARGER * before.min())


def _rate_left(t: Telemetry, first: int) -> bool:
    """Whether the rate, where it is logged, is far from zero from step `first` on (its last row may be the end of a
    schedule)."""
    rate = t.series("lr")
    if rate is None:
        return True
    rates = rate.window(first, int(rate.step[-1])).value
    return not rates.size or bool(rates.min() > LOW_RATE * rate.value.max())


def _learns(loss: Values) -> bool:
    """Whether a loss, positive float64[n], falls from its first third to its last."""
    third = loss.size // 3
    first, last = loss[:third], loss[-third:]
    fall = float(median(first) - median(last))
    sigma = max(noise_sigma(loss), robust_sigma(last))
    error = MEDIAN_ERROR * sigma * np.sqrt(2 / third)
    return fall > min(_LEARNING_SIGMAS * error, _LEARNING_SHARE * float(median(first)))


def _frozen_from(values: Values, digits: float) -> int | None:
    """The row from which on a column, float64[n], is the same to the last digit until the log ends; None where it is
    not, or has fewer units of its last digit than `digits`."""
    row, value = _same_from(np.diff(values, prepend=np.inf) != 0), float(values[-1])
    return row if value != 0 and abs(value) >= digits * rounding(values) else None


def _same_from(changes: NDArray[np.bool_]) -> int | None:
    """The last row of bool[n] that changes, if rows enough follow it; the first one always does."""
    starts = np.flatnonzero(changes)
    first, before = int(starts[-1]), int(np.diff(starts).max(initial=0))
    return first if changes.size - first >= max(FROZEN_ROWS, FROZEN_TIMES * before) else None


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
