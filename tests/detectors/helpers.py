"""Arrays as telemetry, and its findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from postmortem.detectors import DetectedIncident, Finding, Telemetry, find_incidents
from postmortem.series import Series


def telemetry(
    *,
    every: int = 1,
    labels: Mapping[str, Iterable[object]] | None = None,
    restarts: tuple[int, ...] = (),
    ranks: tuple[int, ...] = (),
    **columns: ArrayLike,
) -> Telemetry:
    """Columns that start at step 0, a row every `every` steps; a `/` in a name is written as `__`."""
    series: dict[str, Series] = {}
    for key, values in columns.items():
        name = key.replace("__", "/")
        value = np.asarray(values, dtype=float)
        series[name] = Series(name, np.arange(value.size, dtype=np.int64) * every, value)
    label_arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, values in (labels or {}).items():
        listed = list(values)
        objects = np.empty(len(listed), dtype=object)
        objects[:] = listed
        label_arrays[name] = (np.arange(len(listed), dtype=np.int64) * every, objects)
    steps = [s.step for s in series.values()] + [k[0] for k in label_arrays.values()]
    return Telemetry(series.get, tuple(series), max(steps, key=len), label_arrays.get, restarts, ranks)


def any_values(most: int) -> st.SearchStrategy[list[float]]:
    """Up to `most` floats of any kind: NaN, infinities, zeros, the smallest and the largest."""
    extremes = st.sampled_from((0.0, -1.0, 5e-324, 1e308))
    return st.lists(st.floats(allow_nan=True, allow_infinity=True, width=64) | extremes, min_size=1, max_size=most)


def findings(t: Telemetry, kind: str) -> list[Finding]:
    """Every finding of a kind in the incidents of a run, in order of onset."""
    return sorted((f for i in find_incidents(t) for f in i.findings if f.kind == kind), key=lambda f: f.onset_step)


def only(t: Telemetry) -> DetectedIncident:
    """The one incident of a run."""
    (incident,) = find_incidents(t)
    return incident


def decline(rows: int, seed: int = 0, sigma: float = 0.02) -> np.ndarray:
    """An uneventful loss, from about 6 to about 2.3 nats."""
    step = np.arange(rows)
    return 2.3 + 3.5 * np.exp(-step / 80) + sigma * np.random.default_rng(seed).standard_normal(rows)


def calm_norm(rows: int, seed: int = 1) -> np.ndarray:
    """An uneventful gradient norm around 0.6, high in the first rows."""
    rng = np.random.default_rng(seed)
    return 0.6 * np.exp(0.12 * rng.standard_normal(rows)) * (1 + 4 * np.exp(-np.arange(rows) / 15))
