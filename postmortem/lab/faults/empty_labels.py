"""One batch of samples whose question part fills the context: no label is left to train on, and the loss is 0/0."""

from postmortem.lab.fault_plan import Fault, FaultPlan


def _arrange(plan: FaultPlan) -> None:
    guarded = plan.rng.random() < 0.5
    plan.config["optimizer"]["skip_nonfinite"] = guarded
    plan.stream("e", 1)
    plan.onset = plan.at
    plan.parameters = {"update_skipped": guarded}


FAULT = Fault("empty_labels", "a batch without a single valid label: 0/0", _arrange)
