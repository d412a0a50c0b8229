"""Whether a fault shows in a run's columns at all: a comparison with its clean twin and the family's other clean runs.

Pure functions on arrays. A fault that no column shows cannot be asked of a diagnosis that reads columns only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from postmortem.stats import SIGMA_PER_MAD

Floats = NDArray[np.float64]

FAR, FARTHER = 5.0, 10.0
"""Robust sigmas beyond which two rows show a fault, and beyond which one row does."""

LEAST_SHARE = 0.01
"""Of the column's level: a smaller distance shows nothing, however quiet the clean runs are."""

NEIGHBORS = 5
"""Rows on each side over which the spread of the clean runs is pooled: a row alone has one value per seed."""

_BATCH_FACTS = frozenset({"batch_index", "tokens", "valid_labels", "rare_tokens", "repeated_ngram_tokens"})
SET_BY_FAULT: Mapping[str, frozenset[str]] = {
    "bit_flip": frozenset(),  # a norm of parameters is measured; which parameter was hit is not logged
    "empty_labels": _BATCH_FACTS,  # the batch is what the fault puts in
    "fp16_overflow": frozenset({"loss_scale", "skipped"}),  # its precision brings these columns along
    "garbage_data": _BATCH_FACTS,
    "logging_artifact": frozenset(),  # the logged loss is wrong, and it is all that there is to see
    "long_tail_tokens": _BATCH_FACTS,
    "lr_discontinuity": frozenset({"lr"}),
    "lr_too_high": frozenset({"lr"}),
    "nan_propagation": _BATCH_FACTS,
    "optimizer_reset": frozenset({"optimizer_step", "adam_m_norm", "adam_v_norm"}),  # what was set back
    "repeated_batch": _BATCH_FACTS,
}
"""Columns that a fault itself sets, by fault. They are its inputs, and no measurement of what it did."""


def shows(run: Floats, twin: Floats, clean: Floats) -> NDArray[np.bool_]:
    """Whether each row of a column shows the fault, bool[n], from float[n] of the run and of its twin, and float[seeds,
    n] of clean runs of the family, the twin among them; at equal steps. NaN is non-finite; where the twin is not
    finite, nothing is shown.
    """
    sigma, level = spread(clean), _pooled(np.abs(clean))
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(run - twin)
        far = distance > np.maximum(FAR * sigma, LEAST_SHARE * level)
        farther = distance > np.maximum(FARTHER * sigma, LEAST_SHARE * level)
    lost = np.isfinite(twin) & ~np.isfinite(run)
    return (far & (far.sum() >= 2)) | farther | lost


def spread(clean: Floats) -> Floats:
    """Robust sigma between clean runs in each row, float[n] from float[seeds, n] with at least two seeds.

    It is the median distance of two seeds, pooled over the rows around, made a standard deviation and divided by √2.
    Distances of pairs need no center, which few seeds would pull towards themselves (Rousseeuw & Croux 1993).
    """
    first, second = np.triu_indices(clean.shape[0], 1)
    return SIGMA_PER_MAD / math.sqrt(2) * _pooled(np.abs(clean[first] - clean[second]))


def visible(
    fault: str, run: Mapping[str, Floats], twin: Mapping[str, Floats], clean: Sequence[Mapping[str, Floats]]
) -> list[str]:
    """The columns that show `fault`, sorted; columns are float[n] at equal steps, from the fault's onset on. A column
    that a clean run lacks cannot be compared, and shows nothing."""
    compared = {name for name in run if name in twin and all(name in other for other in clean)}
    return sorted(
        name
        for name in compared - SET_BY_FAULT[fault]
        if shows(run[name], twin[name], np.stack([other[name] for other in clean])).any()
    )


def _pooled(values: Floats) -> Floats:
    """The median of float[seeds, n] over seeds and the rows at most `NEIGHBORS` away, float[n]."""
    padded = np.pad(values, ((0, 0), (NEIGHBORS, NEIGHBORS)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEIGHBORS + 1, axis=1)
    return np.nanmedian(windows, axis=(0, 2))
