"""How high single rows of noise may go that has a heavy tail."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._rolling import local_noise

_TAIL_SHARE, _TAIL_RUNS, _MOST_TAIL_TIMES = 16, 150, 8.0
"""The share of the rows that shows where a tail begins, 1.5 sigmas from the median; times as many rows as there were
that noise needs for one such row; and the most times that a brief excursion must exceed what its column did before.
Under Student's t with 3 degrees of freedom, one of the next n rows passes K times the largest of n rows about once in
K³ columns: a run that doubles its rows five times passes 8 times once in 100 columns, and 4 times once in 13."""


def tail_height(y: NDArray[np.float64]) -> float:
    """How high the noise of single rows may go after the clean rows y float64[n], in their unit.

    Of what these rows depart from their neighbors, the largest, x, and the k-th largest, k = n / 16, show the tail: if
    it is a power law, x · (x / x_k)^(ln m / ln k) is passed once in m · n rows (Hill, Annals of Statistics 3, 1975).
    Few rows may hide their tail, and no more than some multiple of x is asked for.
    """
    k = max(y.size // _TAIL_SHARE, 1)
    sizes = np.sort(np.abs(local_noise(y)))[::-1]
    if k >= y.size or sizes[k] <= 0:
        return 0.0
    steepness = math.log(_TAIL_RUNS) / math.log(k + 1)
    return float(sizes[0]) * min(float(sizes[0] / sizes[k]), _MOST_TAIL_TIMES ** (1 / steepness)) ** steepness
