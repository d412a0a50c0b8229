"""The lab's effective configuration: plain JSON values, with the same keys in every run."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

ENTRY_POINT = "postmortem.lab.program:build"


def default_config(seed: int, steps: int) -> dict[str, Any]:
    """The config of a clean run of `steps` steps. A fault of data or config changes only values in it.

    Knots are [step or position, value] pairs. `schedule.pieces` and `data.order` apply from their step on;
    `model.branch_scale` is interpolated on a log scale between its knots.
    """
    return {
        "seed": seed,
        "precision": "fp32",
        "eval_every": 50,
        "model": {
            "layers": 2,
            "width": 32,
            "heads": 4,
            "context": 32,
            "multiplier": 8.0,
            "dropout": 0.02,
            "branch_scale": [[0, 1.0]],
        },
        "data": {
            "corpus": 1,
            "sentences": 240,
            "shards": 10,
            "vocab": 240,
            "batch_size": 8,
            "order": [[0, 1]],
            "streams": [],
        },
        "optimizer": {
            "name": "adamw",
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "weight_decay": 0.1,
            "clip": 1.0,
            "skip_nonfinite": False,
            "spread_penalty": 0.01,
        },
        "schedule": {
            "base_lr": 3e-4,
            "warmup": 100 if steps >= 1000 else max(1, steps // 10),
            "warmup_to": 1.0,
            "total": steps,
            "floor": 0.1,
            "pieces": [[0, 1.0]],
        },
        "scaler": {"initial": 65536.0, "growth_interval": 200, "growth": 2.0, "backoff": 0.5, "minimum": 1.0},
    }


def learning_rate(schedule: dict[str, Any], step: int) -> float:
    """Linear warmup, then cosine to `floor` × base rate at `total`; all times the factor of the piece at `step`."""
    warmup, total, base = schedule["warmup"], schedule["total"], schedule["base_lr"]
    if step < warmup:
        rate = base * schedule["warmup_to"] * (step + 1) / warmup
    else:
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        rate = base * (schedule["floor"] + (1 - schedule["floor"]) * 0.5 * (1 + math.cos(math.pi * progress)))
    return rate * next(factor for first, factor in reversed(schedule["pieces"]) if first <= step)


def interpolate(knots: list[list[float]], step: int) -> float:
    """The value at `step`, geometric between knots and constant outside them."""
    for (left, low), (right, high) in pairwise(knots):
        if left <= step < right:
            return low * (high / low) ** ((step - left) / (right - left))
    return knots[0][1] if step < knots[0][0] else knots[-1][1]
