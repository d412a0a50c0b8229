"""The learning rate jumps: by a factor from one step on, or at the end of a warmup that is too low."""

from postmortem.lab.fault_plan import Fault, FaultPlan


def _fill_plan(plan: FaultPlan) -> None:
    schedule = plan.config["schedule"]
    factor = round(plan.rng.uniform(8, 30), 2)
    variant = plan.rng.choice(("stays", "returns", "warmup"))
    if variant == "warmup":
        schedule["warmup"] = plan.at
        schedule["warmup_to"] = round(1 / factor, 4)
        schedule["base_lr"] *= 10
    else:
        schedule["pieces"] = [[0, 1.0], [plan.at, factor]]
        if variant == "returns":
            schedule["pieces"].append([min(plan.steps, plan.at + plan.rng.randrange(20, 120)), 1.0])
    plan.onset = plan.at
    plan.parameters = {"factor": factor, "variant": variant}


FAULT = Fault("lr_discontinuity", "the learning rate jumps by a factor of 8 to 30", _fill_plan)
