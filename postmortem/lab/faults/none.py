"""No fault: a run as it should be. About one in five trains in half precision, whose loss scale moves by itself."""

from postmortem.lab.order import Fault, Plan


def _arrange(plan: Plan) -> None:
    if plan.rng.random() < 0.2:
        plan.config["precision"] = "fp16"


FAULT = Fault("none", "a clean run", _arrange, placeable=False)
