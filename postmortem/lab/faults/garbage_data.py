"""A corrupt shard: uniformly random token ids in several consecutive batches, with their own source."""

from postmortem.lab.fault_plan import Fault, FaultPlan


def _fill_plan(plan: FaultPlan) -> None:
    batches = min(plan.rng.randrange(5, 25), plan.steps - plan.at)
    plan.stream("c", batches)
    plan.onset = plan.at
    plan.parameters = {"batches": batches}


FAULT = Fault("garbage_data", "a shard of random token ids, several batches long", _fill_plan)
