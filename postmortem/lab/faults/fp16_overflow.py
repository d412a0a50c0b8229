"""Half precision, and a branch whose inner scale grows until activations and gradients leave the range of float16.

After the branch the scale is removed again: in exact arithmetic, and in float32, nothing changes.
"""

from postmortem.lab.fault_plan import Fault, FaultPlan, Row


def _fill_plan(plan: FaultPlan) -> None:
    top = round(plan.rng.uniform(150, 500), 1)
    rise, stay = plan.rng.randrange(20, 80), plan.rng.randrange(5, 60)
    knots = [(0, 1.0), (plan.at, 1.0), (plan.at + rise, top), (plan.at + rise + stay, top)]
    knots.append((plan.at + rise + stay + rise, 1.0))
    plan.config["precision"] = "fp16"
    plan.config["model"]["branch_scale"] = [list(knot) for knot in knots]
    plan.onset = _overflowed
    plan.parameters = {"first_scaled_step": plan.at, "top_scale": top, "rise": rise, "stay": stay}


def _overflowed(row: Row) -> bool:
    return bool(row["skipped"])


FAULT = Fault("fp16_overflow", "half precision beyond 65,504", _fill_plan)
