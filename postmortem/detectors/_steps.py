"""Row-to-row changes of a column, judged against the column's own recent changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._rolling import hop_for, trailing_quantiles

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Changes:
    """`change[i]` = y[i] - y[i - 1] (0 at row 0); `usual[i]` the larger of two 90 % quantiles over the rows before i
    (inf where fewer than `least`): of |change|, and of |change| per step, for as many steps as row i is away.

    The second counts where the cadence changes: a row that is 50 steps away from the one before has changed more than
    one that is one step away, and nothing happened."""

    change: Values
    usual: Values


def changes(y: Values, step: NDArray[np.int64], window: int = 64, least: int = 8) -> Changes:
    """Changes of finite values, logged at ascending steps, and what was usual before each."""
    change = np.diff(y, prepend=y[:1])
    apart = np.maximum(np.diff(step, prepend=step[:1]), 1)
    hop = hop_for(y.size)

    def usual(size: Values) -> Values:
        found = trailing_quantiles(size, window, hop, (0.9,), least)[0]
        return np.repeat(np.where(np.isnan(found), np.inf, found), hop)[: y.size]

    return Changes(change, np.maximum(usual(np.abs(change)), usual(np.abs(change) / apart) * apart))


def runs(rows: NDArray[np.intp], apart: int) -> list[NDArray[np.intp]]:
    """Split sorted rows where two neighbours are more than `apart` rows from each other."""
    return np.split(rows, np.flatnonzero(np.diff(rows) > apart) + 1) if rows.size else []
