"""How high single rows of noise may go that has a heavy tail."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._rolling import local_noise

_LARGEST_LOG = math.log(sys.float_info.max)
_TAIL_SHARE, TAIL_RUNS, _MOST_TAIL_TIMES = 16, 150, 8.0
"""The share of the rows that shows where a tail begins, 1.5 sigmas from the median; times as many rows as there were
that noise needs for one such row; and the most times that a brief excursion must exceed what its column did before.
Under Student's t with 3 degrees of freedom, one of the next n rows passes K times the largest of n rows about once in
K³ columns: a run that doubles its rows five times passes 8 times once in 100 columns, and 4 times once in 13."""


@dataclass(frozen=True)
class Tail:
    """What noise of single rows does before a row: how far the `largest` of them departs from its neighbors, in units
    of the column, and the exponent of the power law by which more of them depart less far (infinite: none does)."""

    largest: float = 0.0
    exponent: float = math.inf

    @property
    def height(self) -> float:
        """How high single rows of this noise may go, and no more than some multiple of the largest is asked for."""
        times = math.exp(min(math.log(TAIL_RUNS) / self.exponent, math.log(_MOST_TAIL_TIMES)))
        return self.largest * times

    def runs(self, height: float) -> float:
        """In how many times as many rows there is one that goes so high."""
        return (
            math.exp(min(self.exponent * math.log(height / self.largest), _LARGEST_LOG))
            if height > self.largest
            else 0.0
        )


NO_TAIL = Tail()


def tail_of(y: NDArray[np.float64]) -> Tail:
    """The tail of the noise of single rows, from clean rows y float64[n].

    Of what these rows depart from their neighbors, the largest, x, and the k-th largest, k = n / 16, show the tail: if
    it is a power law, x · m^(1 / a) is passed once in m · n rows, a = ln k / ln(x / x_k) (Hill, Annals of Statistics 3,
    1975). Few rows may hide their tail.
    """
    k = max(y.size // _TAIL_SHARE, 1)
    sizes = np.sort(np.abs(local_noise(y)))[::-1]
    if k >= y.size or sizes[k] <= 0:
        return NO_TAIL
    ratio = float(sizes[0] / sizes[k])
    return Tail(float(sizes[0]), math.log(k + 1) / math.log(ratio) if ratio > 1 else math.inf)
