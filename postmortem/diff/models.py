"""Finds out from two logs whether their models differ: what run.json says of them, which parts they have, and what the
first row shows.

The row of step 0, or of step 1 where a counter begins there, is measured before any update has had an effect. So what
differs there is no matter of the optimizer or the schedule.
"""

from __future__ import annotations

import math

import numpy as np

from postmortem.diff.model import ModelFact, Relation
from postmortem.diff.pair import Curve, Pair
from postmortem.run import Run
from postmortem.series import Values
from postmortem.stats import noise_sigma

FIRST_STEPS = (0, 1)  # at which a log may begin whose first row is the first update's
NORM_SHARE = 0.2  # two seeds of one model are closer; an update of the first row adds to the norm in quadrature
LOSS_SHARE = 0.05  # two seeds of one model begin closer to ln V than this
EARLY_ROWS, SIGMAS = 30, 5.0  # rows from which the noise of the first loss is measured, and how much of it is allowed
_PARTS = ("grad_norm", "param_norm", "act_rms", "act_max", "dead_frac", "attention_entropy")


def model_facts(pair: Pair, relations: tuple[Relation, ...]) -> tuple[ModelFact, ...]:
    """What differs between the models of two runs; a loss that is a constant factor of the other one says nothing."""
    facts: list[ModelFact] = []
    sizes = [run.manifest.vocab_size for run in pair.runs]
    if None not in sizes and sizes[0] != sizes[1]:
        facts.append(ModelFact("vocabulary", *sizes))
    facts += _parts_in_one(pair)
    norm = pair.by_step("param_norm")
    if norm is not None and (first := _first_row(norm)) is not None and _apart(*first, NORM_SHARE, 0.0):
        facts.append(ModelFact(f"param_norm at step {norm.step_a[0]}", *first))
    loss = pair.by_step("loss")
    scaled = any(r.column == "loss" and r.form == "factor" and r.before is None for r in relations)
    if loss is not None and not scaled and (first := _first_row(loss)) is not None:
        noise = math.hypot(*(_early_noise(values) for values in (loss.a, loss.b)))
        if _apart(*first, LOSS_SHARE, SIGMAS * noise):
            facts.append(ModelFact(f"loss at step {loss.step_a[0]}", *first))
    return tuple(facts)


def _parts_in_one(pair: Pair) -> list[ModelFact]:
    """The layers and groups that only one run has, by the first measurement that both made of them."""
    for family in _PARTS:
        a, b = (_parts(run, family) for run in pair.runs)
        if a and b and a != b:
            return [ModelFact(f"parts with {family} of only one run:", tuple(sorted(a - b)), tuple(sorted(b - a)))]
    return []


def _parts(run: Run, family: str) -> frozenset[str]:
    prefix = f"{family}/"
    return frozenset(name.removeprefix(prefix) for name in run.columns if name.startswith(prefix))


def _first_row(curve: Curve) -> tuple[float, float] | None:
    """The values of both runs at the first step; None where a log begins later, or a value is not finite."""
    a, b = float(curve.a[0]), float(curve.b[0])
    early = int(curve.step_a[0]) in FIRST_STEPS
    return (a, b) if early and math.isfinite(a) and math.isfinite(b) else None


def _early_noise(values: Values) -> float:
    finite = values[:EARLY_ROWS][np.isfinite(values[:EARLY_ROWS])]
    return noise_sigma(finite) if finite.size > 1 else 0.0


def _apart(a: float, b: float, share: float, least: float) -> bool:
    return abs(b - a) > max(share * min(abs(a), abs(b)), least)
