"""One batch of samples whose question fills the context: no label remains to train on, and the loss is 0/0."""

from postmortem.lab.fault_plan import Fault, FaultPlan


def _fill_plan(plan: FaultPlan) -> None:
    guarded = plan.rng.random() < 0.5
    plan.config["optimizer"]["skip_nonfinite"] = guarded
    plan.stream("e", 1)
    plan.onset = plan.at
    plan.parameters = {"update_skipped": guarded}


FAULT = Fault("empty_labels", "a batch without a single valid label: 0/0", _fill_plan)
