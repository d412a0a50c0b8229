"""The base learning rate is hundreds of times too high from the start: instability without a batch to blame.

A pre-norm model this small still trains at 500 times its rate. From about 800 on the loss turns around near the end of
warmup, and loss and gradient norm jump again and again.
"""

from postmortem.lab.fault_plan import Fault, FaultPlan


def _arrange(plan: FaultPlan) -> None:
    factor = round(800 * 3 ** plan.rng.random(), 1)
    plan.config["schedule"]["base_lr"] *= factor
    plan.parameters = {"factor": factor}


FAULT = Fault("lr_too_high", "a base learning rate 800 to 2,400 times too high", _arrange, placeable=False)
