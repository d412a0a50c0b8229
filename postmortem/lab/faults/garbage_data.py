"""A corrupt shard: uniformly random token ids for several batches on end, under a source of its own."""

from postmortem.lab.fault_plan import Fault, FaultPlan


def _arrange(plan: FaultPlan) -> None:
    batches = min(plan.rng.randrange(5, 25), plan.steps - plan.at)
    plan.stream("c", batches)
    plan.onset = plan.at
    plan.parameters = {"batches": batches}


FAULT = Fault("garbage_data", "a shard of random token ids, several batches long", _arrange)
