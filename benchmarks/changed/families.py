"""The families of changed programs: how each is trained, and how each is logged.

A training is made once and may be logged in several ways. `TRAININGS` change the lab's config before a fault is written
into it; `FAMILIES` say which training a family logs, and how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Training:
    """`changes` are values of the lab's config by dotted key. `too_high` scales the factor of the fault lr_too_high:
    what the lab multiplies the rate by is the edge of stability of AdamW with its model, not of every optimizer.
    """

    steps: int
    changes: Mapping[str, Any]
    too_high: float = 1.0


@dataclass(frozen=True)
class Family:
    """How a training is logged: every how many steps, and without which keys of the manifest."""

    training: str
    what: str
    every: int = 1
    without: frozenset[str] = frozenset()  # keys of the manifest


TRAININGS: Mapping[str, Training] = {
    "adamw": Training(600, {"optimizer.betas": [0.9, 0.95], "schedule.base_lr": 1e-3}),
    "sgd": Training(400, {"optimizer.name": "sgd", "schedule.base_lr": 0.1}, too_high=1 / 40),
    "lion": Training(400, {"optimizer.name": "lion", "schedule.base_lr": 3e-4}),
    "ramped": Training(
        400,
        {
            "optimizer.name": "sgd",
            "optimizer.clip": 100.0,  # never reached: the update follows the gradient
            "optimizer.ramp": 48,
            "model.zero_start": True,
            "schedule.base_lr": 0.02,
        },
        too_high=1 / 40,
    ),
    "mixed": Training(400, {"data.word_orders": 8, "data.batch_size": 4, "schedule.base_lr": 1e-3}),
}

FAMILIES: Mapping[str, Family] = {
    "sgd": Family("sgd", "SGD with momentum"),
    "lion": Family("lion", "Lion: the update RMS is constantly 1"),
    "sparse": Family("adamw", "every tenth step logged", every=10),
    "no_vocab": Family("adamw", "no vocabulary said", without=frozenset({"vocab", "vocab_size"})),
    "early_trend": Family("ramped", "an early trend in each column"),
    "brief_trend": Family("ramped", "the same trend in half as many rows: every second step logged", every=2),
    "heavy_tail": Family("mixed", "heavy-tailed noise"),
}
