"""Tables of programs that are not the lab's: columns that share the hardness of their batch, for three optimizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from postmortem.assess.detection import detect
from postmortem.case import Case, Observation
from postmortem.panels import panels
from postmortem.pipeline import diagnose
from postmortem.run import Run
from postmortem.sources import open_run
from tests.makers import write_run

Optimizer: TypeAlias = Literal["adam", "lion", "sgd"]
Columns: TypeAlias = dict[str, np.ndarray]
ROWS, AT = 400, 300
LEVEL = 2.5
OF_TOKENS = {"token_loss_p50": 0.9, "token_loss_p99": 2.0, "token_loss_max": 2.6}


def program(optimizer: Optimizer, seed: int = 0) -> Columns:
    """A run in which nothing happens: float64[ROWS] a column. Loss, tokens and gradient follow the same batches."""
    rng = np.random.default_rng(seed)
    hardness, of_gradient, of_update = rng.standard_normal((3, ROWS))
    columns = {
        "loss": LEVEL + 0.05 * hardness,
        "lr": 3e-4 * np.cos(np.arange(ROWS) / ROWS),
        "grad_norm": 0.6 * np.exp(0.1 * (0.8 * hardness + 0.6 * of_gradient)),
        "param_norm": 20 + np.cumsum(1e-3 * (1 + 0.2 * of_update)),
    }
    columns["update_rms"] = {
        "adam": 0.3 * np.exp(0.03 * of_update),
        "lion": np.ones(ROWS),
        "sgd": 1e-3 * columns["grad_norm"],
    }[optimizer]
    for name, factor in OF_TOKENS.items():
        columns[name] = factor * (columns["loss"] + 0.01 * rng.standard_normal(ROWS))
    return columns


def harder(columns: Columns, rows: slice, nats: float) -> Columns:
    """Each token of these rows costs so many nats more, and so does their mean."""
    for name in ("loss", *OF_TOKENS):
        columns[name][rows] += nats
    return columns


def run_of(folder: Path, columns: Mapping[str, Any], **facts: Any) -> Run:
    return open_run(write_run(folder / "run", columns, **facts))


def observed(run: Run) -> dict[str, Observation]:
    """What all panels observe of the worst incident, by slug."""
    incidents = detect(run)
    return {o.slug: o for panel in panels() for o in panel.read(Case(run, incidents[0], incidents))[1]}


def shares(run: Run) -> dict[str, float]:
    """The probability of each cause of the worst incident, the first one first."""
    return {h.cause: h.probability for h in diagnose(run).incidents[0].hypotheses}


def first(run: Run) -> str:
    return next(iter(shares(run)))


def resumed(*steps: int, **keys: Any) -> Sequence[Mapping[str, Any]]:
    """A journal of resumes that do not say what came back."""
    return [{"event": "resume", "step": step, "from_step": step, **keys} for step in steps]
