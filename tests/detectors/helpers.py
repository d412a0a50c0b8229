"""Arrays and small log files as telemetry."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from postmortem.detectors import Finding, Incident, Telemetry, find_incidents
from postmortem.series import Series

REAL_LOGS = Path(__file__).parents[3] / "shared" / "real_logs"
_OWN_NAMES = {"global_step": "step", "learning_rate": "lr"}
_COLUMNS = ("loss", "grad_norm", "lr", "param_norm")


def telemetry(
    *,
    every: int = 1,
    labels: Mapping[str, Iterable[object]] | None = None,
    restarts: tuple[int, ...] = (),
    **columns: ArrayLike,
) -> Telemetry:
    """Columns that start at step 0, a row every `every` steps; a `/` in a name is written as `__`."""
    series: dict[str, Series] = {}
    for key, values in columns.items():
        name = key.replace("__", "/")
        value = np.asarray(values, dtype=float)
        series[name] = Series(name, np.arange(value.size, dtype=np.int64) * every, value)
    kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, values in (labels or {}).items():
        listed = list(values)
        held = np.empty(len(listed), dtype=object)
        held[:] = listed
        kept[name] = (np.arange(len(listed), dtype=np.int64) * every, held)
    steps = [s.step for s in series.values()] + [k[0] for k in kept.values()]
    return Telemetry(series.get, tuple(series), max(steps, key=len), kept.get, restarts)


def findings(t: Telemetry, kind: str) -> list[Finding]:
    """Every finding of a kind in the incidents of a run, in order of onset."""
    return sorted((f for i in find_incidents(t) for f in i.findings if f.kind == kind), key=lambda f: f.onset_step)


def only(t: Telemetry) -> Incident:
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


def read_log(path: Path) -> Telemetry:
    """A CSV, JSONL or trainer_state.json log; a blank cell and a null are "not logged"."""
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return rows_telemetry(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return rows_telemetry(json.loads(line) for line in path.read_text().splitlines())
    return rows_telemetry(json.loads(path.read_text())["log_history"])


def rows_telemetry(rows: Iterable[Mapping[str, object]]) -> Telemetry:
    """Dict rows as telemetry; rows of one step are merged."""
    by_step: dict[int, dict[str, float]] = {}
    for row in rows:
        named = {_OWN_NAMES.get(key, key): value for key, value in row.items()}
        kept = by_step.setdefault(int(float(str(named["step"]))), {})
        kept.update({c: float(str(named[c])) for c in _COLUMNS if named.get(c) not in ("", None)})
    series: dict[str, Series] = {}
    for column in _COLUMNS:
        points = [(step, row[column]) for step, row in sorted(by_step.items()) if column in row]
        if points:
            step, value = zip(*points, strict=True)
            series[column] = Series(column, np.array(step, dtype=np.int64), np.array(value))
    return Telemetry(series.get, tuple(series), np.array(sorted(by_step), dtype=np.int64), lambda _: None)
