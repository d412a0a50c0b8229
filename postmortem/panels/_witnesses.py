"""Which columns can testify that the loss departed alone: those that followed it in the run's own past."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from postmortem.case import BASELINE_ROWS, Case
from postmortem.departure import MOVED_Z, Departure
from postmortem.panels._measuring import QUANTILES, token_share_of_rise

WITNESSES = ("grad_norm", "update_rms", "param_norm", "adam_m_norm", "max_output_logit")
"""Columns that a real change of the loss moves in the same row or the next; other code than that of the loss computes
them."""

PAST_ROWS = 4 * BASELINE_ROWS
"""Rows before the onset that show whether a column follows the loss: a weak correlation needs many."""

FEWEST_ROWS = 30
"""With fewer, no correlation below 1 is beyond chance."""

BEYOND_CHANCE = 4 * math.sqrt(1 + 2 * ((2 / 3) ** 2 + (1 / 6) ** 2))
"""Least correlation, times √rows. Second differences of independent noise have the autocorrelations −2/3 and 1/6, which
widens the standard error of a correlation of two such columns from 1/√n by this root (Bartlett 1935); four of them."""

EXPLAINED = 0.3
"""Share of the rise of the loss from which its token quantiles rose, too."""


def followed(case: Case, name: str) -> float:
    """How closely a column followed the loss before the incident, in [0, 1]: the rank correlation of their second
    differences, which have no trend in common, in the same row or one row later. 0 where that may be chance, and for a
    column that never moves.
    """
    loss, series = case.series("loss"), case.series(name)
    if loss is None or series is None:
        return 0.0
    since = case.unaffected_from(PAST_ROWS)
    loss, series = loss.window(since, case.onset), series.window(since, case.onset)
    _, of_loss, of_column = np.intersect1d(loss.step, series.step, assume_unique=True, return_indices=True)
    both = np.stack((loss.value[of_loss], series.value[of_column]))
    both = both[:, np.isfinite(both).all(axis=0)]
    if both.shape[1] < FEWEST_ROWS:
        return 0.0
    x, y = (np.diff(row, 2) for row in both)
    closest = max(abs(_rank_correlation(x, y)), abs(_rank_correlation(x[:-1], y[1:])))
    return closest if closest * math.sqrt(x.size) >= BEYOND_CHANCE else 0.0


def unmoved_witnesses(case: Case, up: Departure) -> tuple[str, ...] | None:
    """The columns that would have moved with the loss if it had departed as in `up`, and did not; None where a column
    that is logged did move.

    A column that follows the loss with a correlation of r is expected to move r times as many sigmas as the loss; where
    that is less than a departure needs, its stillness says nothing. The token quantiles are one witness.
    """
    unmoved: list[str] = []
    for name in WITNESSES:
        d = case.departure(name)
        if d is not None and (d.moved or d.several):
            return None
        if d is not None and d.flat and followed(case, name) * up.z >= MOVED_Z:
            unmoved.append(name)
    share = token_share_of_rise(case)
    if share is not None:
        row = (case.onset, case.onset + 1)
        at_onset = [case.departure(name, row) for name in QUANTILES]
        if share[0] >= EXPLAINED or any(d is not None and d.moved for d in at_onset):
            return None
        if tokens_follow(case) * up.z >= MOVED_Z:
            unmoved.append("token_loss_*")
    return tuple(unmoved)


def tokens_follow(case: Case) -> float:
    """How closely the token quantiles followed the loss: 0 where they are of other tokens than it, as those of one rank
    or of the last micro-batch."""
    return max(followed(case, name) for name in QUANTILES)


def _rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's, of float[n] and float[n]; 0 where one of them is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank of each of `values`, float[n]; equal ones share the mean of their ranks."""
    _, place, number = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(number) - (number - 1) / 2)[place]
