"""One exponent bit of one parameter flips between two steps, as in a faulty memory cell."""

from __future__ import annotations

from typing import Any

from postmortem.lab.fault_plan import Fault, FaultPlan
from postmortem.program import Program

_TOP_BIT = 30
_TOP_BIT_IN = ("norm1", "norm2", "norm", "positions")
_LOWER_BIT_IN = ("out", "down")


def _fill_plan(plan: FaultPlan) -> None:
    top_bit, pick = plan.rng.random() < 0.6, plan.rng.random()
    parameters: dict[str, Any] = {"top_bit": top_bit}

    def flip(step: int, program: Program) -> None:
        if step == plan.at and "name" not in parameters:
            parameters.update(_flip(program, top_bit, pick))

    plan.before_step = flip
    plan.onset = plan.at
    plan.parameters = parameters


def _flip(program: Program, top_bit: bool, pick: float) -> dict[str, Any]:
    """Flip a bit that makes its parameter larger, in a tensor that every batch uses; return which one.

    The top bit multiplies by 2^128; a lower one brings a small weight to between 1.5 and 2.
    """
    import torch

    model = program.state_dict()["model"]
    names = sorted(name for name in model if name.endswith(_TOP_BIT_IN if top_bit else _LOWER_BIT_IN))
    candidates: list[tuple[str, int, int]] = []
    for name in names:
        values = model[name].reshape(-1)
        for bit in (_TOP_BIT,) if top_bit else range(25, _TOP_BIT):
            flipped = (values.view(torch.int32) ^ (1 << bit)).view(torch.float32)
            larger = (flipped.abs() > 1.5) & (flipped.abs() > 4 * values.abs()) & flipped.isfinite()
            candidates += [(name, int(element), bit) for element in larger.nonzero().view(-1)]
    name, element, bit = candidates[int(pick * len(candidates))]
    values = model[name].view(-1)
    before = float(values[element])
    values.view(torch.int32)[element] ^= 1 << bit
    program.load_state_dict({"model": {name: model[name]}})
    return {"name": name, "element": element, "bit": bit, "before": before, "after": float(values[element])}


FAULT = Fault("bit_flip", "one exponent bit of one parameter flips between two steps", _fill_plan)
