"""The run stops and resumes without the moments of the optimizer; its step count may be restored or not."""

from postmortem.lab.fault_plan import Fault, FaultPlan, StopAndResume


def _fill_plan(plan: FaultPlan) -> None:
    keeps_step = plan.rng.random() < 0.5
    lost = plan.rng.choice((0, 0, 12, 40))
    restored = ("model", *(("optimizer.step",) if keeps_step else ()), "schedule", "loader", "rng", "scaler")
    plan.stop = StopAndResume(plan.at, min(lost, plan.steps - 1 - plan.at), restored)
    plan.onset = plan.at
    plan.parameters = {"step_count_kept": keeps_step, "lost_steps": plan.stop.lost}


FAULT = Fault("optimizer_reset", "a resume that forgets the optimizer's moments", _fill_plan)
