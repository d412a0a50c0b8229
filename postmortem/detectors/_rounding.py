"""The rounding of a log: no figure of a column means more than its last digit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_DECIMALS = 8
"""Values with more decimals count as not rounded: float32 has 7 digits."""

_LOOK_AT = 4_096
"""The first values show how all are rounded."""


def rounding(values: NDArray[np.float64]) -> float:
    """The unit of the last decimal that finite values float64[n] were logged with; 0 where they were not rounded."""
    values = values[:_LOOK_AT]
    for decimals in range(MOST_DECIMALS):
        scaled = values * 10.0**decimals
        if np.all(np.abs(scaled - np.round(scaled)) <= 1e-6):
            return 10.0**-decimals
    return 0.0
