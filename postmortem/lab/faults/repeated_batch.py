"""The loader repeats one batch for a while, then continues with the batches after it."""

from postmortem.lab.fault_plan import Fault, FaultPlan


def _fill_plan(plan: FaultPlan) -> None:
    length = min(plan.rng.randrange(20, 61), plan.steps - plan.at)
    plan.config["data"]["order"] = [[0, 1], [plan.at, 0], [plan.at + length, 1]]
    plan.onset = plan.at + 1
    plan.batches = (plan.at, plan.at + length + 1)
    plan.parameters = {"repeats": length + 1, "first_repeat": plan.at + 1}


FAULT = Fault("repeated_batch", "the loader hands out one batch 21 to 61 times in a row", _fill_plan)
