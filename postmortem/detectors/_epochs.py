"""Where the epochs of a run begin, by what it logged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from postmortem.series import Series

Steps = NDArray[np.int64]

NEAR_ROWS = 2
"""Rows around the first one of an epoch that are at its start: loss and counter may be logged one row apart."""


def epoch_starts(epoch: Series | None, batch_index: Series | None, restarts: Sequence[int] = ()) -> Steps:
    """The first step of each epoch but the first, int64[k], or none where the log does not say.

    It is where the number of the epoch (whole or not) reaches the next whole one, else where the index of the batch
    falls back to its lowest: not at a resume (`restarts`), where a loader that lost its place begins again, too.
    """
    if epoch is not None and len(epoch) > 1 and np.isfinite(epoch.value).all():
        return epoch.step[1:][np.diff(np.floor(epoch.value)) > 0]
    if batch_index is None or len(batch_index) < 2:
        return np.empty(0, np.int64)
    value = batch_index.value
    begins = (np.diff(value) < 0) & (value[1:] == value.min())
    return np.setdiff1d(batch_index.step[1:][begins], np.asarray(restarts, np.int64))


def at_epoch_starts(step: Steps, row: int, starts: Steps) -> bool:
    """Whether `row` of the rows `step` is within NEAR_ROWS of one of the `starts`."""
    first, last = step[max(row - NEAR_ROWS, 0)], step[min(row + NEAR_ROWS, step.size - 1)]
    return bool(((starts >= first) & (starts <= last)).any())
