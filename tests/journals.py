"""Runs with a spike and a journal, for tests of what the journal says: of panels, causes and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from postmortem.diagnosis import Incident
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import STEPS, healthy, healthy_batches, write_run

AT = 350  # the spike
Journal: TypeAlias = Sequence[Mapping[str, Any]]


def spike(root: Path, journal: Journal = (), **more: Any) -> Path:
    """A run with a spike of 12 rows at step 350."""
    columns = healthy()
    columns["loss"][AT : AT + 12] += 4.0
    columns["grad_norm"][AT : AT + 12] *= 20
    return write_run(root, columns, batches=healthy_batches(), journal=journal, **more)


def rolled_back(root: Path, journal: Journal = (), again: float = 0.0, rows: int = STEPS, level: float = 0.0) -> Path:
    """A run with a spike at step 350 that was rolled back from step 399 to 300; `again` is the spike's height then,
    and `level` what the loss is higher by from step 300 on."""
    first, second = healthy(400), healthy(rows)
    first["loss"][AT : AT + 12] += 4.0
    first["grad_norm"][AT : AT + 12] *= 20
    second["loss"][AT : AT + 12] += again
    second["loss"][320:] += level
    joined = {name: np.concatenate([first[name], second[name][300:]]) for name in first}
    steps = np.concatenate([np.arange(400), np.arange(300, rows)])
    attempt = np.concatenate([np.zeros(400, int), np.ones(rows - 300, int)])
    return write_run(root, joined, steps=steps, attempt=attempt, journal=journal)


_diagnosed: dict[str, Incident] = {}


def worst(run: Path) -> Incident:
    """The worst incident of a run; runs of the same files, such as those without a journal, are diagnosed once."""
    files = sorted(path for path in run.rglob("*") if path.is_file())
    digest = sha256(repr([(path.relative_to(run), path.read_bytes()) for path in files]).encode()).hexdigest()
    if digest not in _diagnosed:
        _diagnosed[digest] = diagnose(open_run(run)).incidents[0]
    return _diagnosed[digest]


def observed(run: Path) -> dict[str, str]:
    """What panel 12 says, by slug."""
    return {e.observation: e.text for e in worst(run).evidence if e.panel == 12}


def event(name: str, step: int | None = AT - 2, **keys: Any) -> dict[str, Any]:
    """An event two steps before the spike, if not said otherwise."""
    return {"event": name, "step": step, "time": 1_780_000_001.0, **keys}


def score(run: Path, cause: str) -> float:
    """The log-odds of a cause of the worst incident; −9 where nothing speaks for or against it."""
    return next((h.score for h in worst(run).hypotheses if h.cause == cause), -9.0)
