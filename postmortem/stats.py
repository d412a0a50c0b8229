"""Robust statistics: a scale that a few outliers do not move."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SIGMA_PER_MAD = 1.4826
"""1 / Φ⁻¹(3/4): the standard deviation of a Gaussian over its median absolute deviation (Rousseeuw & Croux 1993)."""


def robust_sigma(values: NDArray[np.floating], center: float | None = None) -> float:
    """1.4826 · median |x − center|, in the unit of `values`, float[n] with n ≥ 1. `center` is their median unless it is
    given; NaN where a value is NaN."""
    middle = np.median(values) if center is None else center
    return SIGMA_PER_MAD * float(np.median(np.abs(values - middle)))


def noise_sigma(values: NDArray[np.floating]) -> float:
    """1.4826 · median |x[i + 1] − x[i]| / √2: robust sigma of consecutive `values`, float[n] with n ≥ 2, about their
    trend, in their unit. Differences remove the trend, and those of independent values scatter √2 times as far as the
    values themselves (von Neumann 1941)."""
    return SIGMA_PER_MAD * float(np.median(np.abs(np.diff(values)))) / math.sqrt(2)
