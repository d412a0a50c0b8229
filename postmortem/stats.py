"""Robust statistics: one scale, which a few outliers do not move."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SIGMA_PER_MAD = 1.4826
"""1 / Φ⁻¹(3/4): the standard deviation of a Gaussian over its median absolute deviation (Rousseeuw & Croux 1993)."""


def robust_sigma(values: NDArray[np.floating], center: float | None = None) -> float:
    """1.4826 · median |x − center|, in the unit of `values`, float[n]; `center` is their median unless it is given."""
    middle = np.median(values) if center is None else center
    return SIGMA_PER_MAD * float(np.median(np.abs(values - middle)))


def noise_sigma(values: NDArray[np.floating]) -> float:
    """Robust sigma of consecutive `values`, float[n], about their own trend: differences take the trend out, and those
    of independent values scatter √2 as far as the values themselves (von Neumann 1941)."""
    return SIGMA_PER_MAD * float(np.median(np.abs(np.diff(values)))) / math.sqrt(2)
