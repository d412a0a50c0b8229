"""No fault: a clean run. About one in five trains in half precision, where the loss scale changes by itself."""

from postmortem.lab.fault_plan import Fault, FaultPlan


def _fill_plan(plan: FaultPlan) -> None:
    if plan.rng.random() < 0.2:
        plan.config["precision"] = "fp16"


FAULT = Fault("none", "a clean run", _fill_plan, placeable=False)
