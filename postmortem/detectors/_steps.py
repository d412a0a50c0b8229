"""Row-to-row changes of a column, judged against the column's own recent changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._rolling import hop_for, trailing_quantiles

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Changes:
    """`change[i]` = y[i] - y[i - 1] (0 at row 0); `usual[i]` the larger of the 90 % quantile of |change| over the rows
    before i (inf where fewer than `least`)."""

    change: Values
    usual: Values


def changes(y: Values, window: int = 64, least: int = 8) -> Changes:
    """Changes of finite values and what was usual before each."""
    change = np.diff(y, prepend=y[:1])
    hop = hop_for(y.size)
    usual = trailing_quantiles(np.abs(change), window, hop, (0.9,), least)[0]
    usual = np.repeat(np.where(np.isnan(usual), np.inf, usual), hop)[: y.size]
    return Changes(change, usual)


def runs(rows: NDArray[np.intp], apart: int) -> list[NDArray[np.intp]]:
    """Split sorted rows where two neighbours are more than `apart` rows from each other."""
    return np.split(rows, np.flatnonzero(np.diff(rows) > apart) + 1) if rows.size else []
