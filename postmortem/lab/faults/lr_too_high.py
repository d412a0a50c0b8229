"""The base learning rate is hundreds of times too high from the start: instability without a bad batch.

A pre-norm model of this size still trains at 500 times its rate. From about 800 times on, the loss rises near the end
of warmup, and loss and gradient norm jump again and again.
"""

from postmortem.lab.fault_plan import Fault, FaultPlan


def _fill_plan(plan: FaultPlan) -> None:
    factor = round(800 * 3 ** plan.rng.random(), 1)
    plan.config["schedule"]["base_lr"] *= factor
    plan.parameters = {"factor": factor}


FAULT = Fault("lr_too_high", "a base learning rate 800 to 2,400 times too high", _fill_plan, placeable=False)
