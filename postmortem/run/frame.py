"""Logged columns as a pandas DataFrame, which keeps "not logged" and NaN apart.

This is the only module that imports pandas, and only when a frame is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from postmortem.run.arrow import Array, to_arrow
from postmortem.run.columns import describe
from postmortem.run.values import LabelCells, Numbers
from postmortem.series import Steps

if TYPE_CHECKING:
    import pandas as pd

Logged = tuple[Steps, NDArray[Any]]  # one column: the steps at which it was logged, ascending; float64 or object


def frame(steps: Steps, columns: Mapping[str, Logged]) -> pd.DataFrame:
    """`columns` over `steps`, and over further steps at which only some of them were logged.

    The columns are Arrow's, because a float of numpy has only one NaN for both. `pandas.array` would turn the NaNs into
    nulls (pandas 3), so the arrays are made here.
    """
    import pandas as pd

    index = steps
    for step, _ in columns.values():
        if step is not index and not _within(step, index):
            index = np.union1d(index, step)
    arrays = {name: pd.arrays.ArrowExtensionArray(_array(logged, index)) for name, logged in columns.items()}
    table = pd.DataFrame(arrays, index=pd.Index(index, name="step"))
    table.attrs["units"] = {name: column.unit for name in columns if (column := describe(name)) is not None}
    return table


def _within(step: Steps, index: Steps) -> bool:
    rows = np.searchsorted(index, step)
    return step.size == 0 or bool(rows[-1] < index.size and (index[rows] == step).all())


def _array(logged: Logged, index: Steps) -> Array:
    """An Arrow array of the index's length: float64, text or lists; null where not logged."""
    step, value = logged
    is_label, mask = value.dtype == np.object_, None
    if step.size < index.size:
        rows = np.searchsorted(index, step)
        spread = np.full(index.size, None if is_label else 0.0, value.dtype)
        spread[rows] = value
        mask = np.zeros(index.size, np.bool_)
        mask[rows] = True
        value = spread
    return to_arrow(LabelCells(value) if is_label else Numbers(value, mask), integers=False)
