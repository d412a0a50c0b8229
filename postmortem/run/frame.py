"""Logged columns side by side as a pandas DataFrame, in which "not logged" and NaN stay two things.

This is the only module that imports pandas, and only when somebody asks for a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from postmortem.run.arrow import Array, to_arrow
from postmortem.run.columns import describe
from postmortem.run.values import Numbers, Things
from postmortem.series import Steps

if TYPE_CHECKING:
    import pandas as pd

Logged = tuple[Steps, NDArray[Any]]  # of one column: the steps at which it was logged, ascending; float64 or object


def frame(steps: Steps, columns: Mapping[str, Logged]) -> pd.DataFrame:
    """`columns` over `steps`, and over further steps at which only some of them were logged.

    Arrow backs the columns, because a float of numpy has one NaN for both. `pandas.array` would make nulls of the NaNs
    (pandas 3), so the arrays are made here and handed over as they are.
    """
    import pandas as pd

    index = steps
    for step, _ in columns.values():
        if step is not index and not _within(step, index):
            index = np.union1d(index, step)
    arrays = {name: pd.arrays.ArrowExtensionArray(_array(logged, index)) for name, logged in columns.items()}
    made = pd.DataFrame(arrays, index=pd.Index(index, name="step"))
    made.attrs["units"] = {name: column.unit for name in columns if (column := describe(name)) is not None}
    return made


def _within(step: Steps, index: Steps) -> bool:
    at = np.searchsorted(index, step)
    return step.size == 0 or bool(at[-1] < index.size and (index[at] == step).all())


def _array(logged: Logged, index: Steps) -> Array:
    """float64, or what text and lists come to, of the index's length; null where not logged."""
    step, value = logged
    things, mask = value.dtype == np.object_, None
    if step.size < index.size:
        at = np.searchsorted(index, step)
        spread = np.full(index.size, None if things else 0.0, value.dtype)
        spread[at] = value
        mask = np.zeros(index.size, np.bool_)
        mask[at] = True
        value = spread
    return to_arrow(Things(value) if things else Numbers(value, mask), whole=False)
