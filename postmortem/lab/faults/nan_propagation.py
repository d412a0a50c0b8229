"""An empty line in a batch: one token's embedding has a spread of 0, where the gradient of a square root is NaN.

The loss of that step is finite and its labels are valid; the update writes NaN into every parameter it reaches.
"""

from postmortem.lab.fault_plan import Fault, FaultPlan


def _fill_plan(plan: FaultPlan) -> None:
    lines = plan.rng.randrange(1, 4)
    plan.stream("d", 1, name=f"shard-{plan.rng.randrange(10):02d}", share=lines)
    plan.onset = plan.at
    plan.parameters = {"empty_lines": lines}


FAULT = Fault("nan_propagation", "a gradient that is NaN destroys the parameters", _fill_plan)
