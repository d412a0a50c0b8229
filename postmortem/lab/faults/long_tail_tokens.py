"""One batch has several sentences with words whose pieces are very rare in the ordinary text."""

from postmortem.lab.fault_plan import Fault, FaultPlan


def _fill_plan(plan: FaultPlan) -> None:
    sentences = plan.rng.randrange(4, 6)
    name = f"shard-{plan.rng.randrange(10):02d}" if plan.rng.random() < 0.5 else None
    plan.stream("b", 1, name=name, share=sentences)
    plan.onset = plan.at
    plan.parameters = {"rare_sentences": sentences}


FAULT = Fault("long_tail_tokens", "one batch contains many rare word pieces", _fill_plan)
