"""No fault: a run as it should be. About one in five trains in half precision, whose loss scale moves by itself."""

from postmortem.lab.fault_plan import Fault, FaultPlan


def _arrange(plan: FaultPlan) -> None:
    if plan.rng.random() < 0.2:
        plan.config["precision"] = "fp16"


FAULT = Fault("none", "a clean run", _arrange, placeable=False)
