"""The learning rate jumps away from its own trend.

Usual reasons are a warmup that ends abruptly, a restart that is misaligned with its schedule, and a bug in a piecewise
schedule. The lr panel shows a jump at the onset while update RMS ÷ lr stays flat: updates grew only because lr did. A
smooth lr rules it out, and so does a resume that did not restore the schedule: then the jump is the resume's
(`optimizer_reset`).

**Smallest fix.** Fix the schedule, and assert lr as a function of the step.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed
from postmortem.causes._remedies import roll_back
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy


def _root_cause_sentence(case: Case, observed: Observed) -> str:
    jump = observed.get("lr.jump")
    if jump is None:
        return f"The learning rate may have jumped around step {case.onset}."
    return f"The learning rate {jump.text.removeprefix('lr ')}."


def _remedies(case: Case, observed: Observed) -> tuple[Remedy, ...]:
    return (
        Remedy(
            (
                "Fix the schedule so that lr is continuous at that step, and assert it as a function of the "
                "step at every resume."
            ),
            "none on the data",
        ),
        roll_back(case, "replay with the smooth schedule", lower_rate=False),
        Remedy(
            "Lower the peak learning rate.",
            declined="the level before and after the jump was fine; only the jump was not",
        ),
    )


CAUSE = Cause(
    slug="lr_discontinuity",
    title="Learning-rate discontinuity",
    prior=-3.0,
    weights={
        "lr.jump": 6.0,
        "update.flat": 0.3,
        "token_loss.whole": 0.3,
        "lr.smooth": -6.0,
        "lr.jump_after": -3.0,
        "data.no_labels": -3.0,
        "loss.alone": -2.0,
        "loss.falls_for_good": -1.0,
        "loss.reduction_changed": -2.0,
        "token_loss.disagrees": -2.0,
        "data.baseline_harmless": 0.5,
        "data.baseline_harmful": -1.0,
        "data.epoch_period": -1.0,
        "state.baseline_same_step": 1.5,
        "state.rate_raised": 1.5,
        "state.rate_lowered": 0.5,
        "state.schedule_changed": 2.0,
        "state.schedule_lost": -8.0,
        "state.not_training": -1.0,
        "state.ranks_differ": -2.0,
        "state.data_changed": -0.5,
    },
    root_cause_sentence=_root_cause_sentence,
    remedies=_remedies,
    proof_text="Smooth only the learning rate, with the same data and the same state: the incident disappears.",
    lesson="A schedule is code, and may be wrong like any code",
    predicts=lambda suspect: (
        Prediction((Change("lr-smooth", values=(suspect.jump,)),), "cures"),
        Prediction((Change("replace", (suspect.window,)),), "persists"),
    ),
    fix=lambda suspect: (Change("lr-smooth", values=(suspect.jump,)),),
    doc=__doc__,
)
