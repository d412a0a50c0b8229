"""An empty line in a batch: the spread of one token's embedding is 0, and the slope of a square root at 0 is no number.

The loss of that step is finite and its labels are valid; the update writes NaN into every parameter it reaches.
"""

from postmortem.lab.fault_plan import Fault, FaultPlan


def _arrange(plan: FaultPlan) -> None:
    lines = plan.rng.randrange(1, 4)
    plan.stream("d", 1, name=f"shard-{plan.rng.randrange(10):02d}", share=lines)
    plan.onset = plan.at
    plan.parameters = {"empty_lines": lines}


FAULT = Fault("nan_propagation", "a gradient that is NaN destroys the parameters", _arrange)
