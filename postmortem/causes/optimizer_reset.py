"""The optimizer's moments or hyperparameters were not restored at a resume.

At the resume m, v and the step count fall, and the first updates are badly scaled until the moments are estimated again
(update RMS ÷ lr goes to about 1, or to (1−β1)/√(1−β2) = 3.16 at β2 = 0.999 where only the moments were zeroed). The
loss rises for about 10–50 steps. Continuous moments rule it out. Restoring a checkpoint that has parameters only *is*
an optimizer reset.

**Smallest fix.** Restore m, v, step and betas together with the parameters.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed
from postmortem.causes._remedies import roll_back
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy


def _root_cause_sentence(case: Case, observed: Observed) -> str:
    reset, resumed = observed.get("moments.reset"), observed.get("state.resumed")
    resume = f"When the run was resumed at step {resumed.step}," if resumed else f"At step {case.onset}"
    evidence = reset.text if reset else "it seems that the moments were not restored"
    return f"{resume} the optimizer lost its state: {evidence}."


def _remedies(case: Case, observed: Observed) -> tuple[Remedy, ...]:
    return (
        roll_back(case, "resume with the optimizer's moments, step count and betas restored"),
        Remedy(
            "Assert after every load that the norms of the moments and the optimizer's step equal the saved ones.",
            "one norm over the moments at each resume",
        ),
        Remedy(
            "Warm the learning rate up again after the resume.",
            declined="treats the symptom; needed only where the moments are lost forever",
        ),
    )


CAUSE = Cause(
    slug="optimizer_reset",
    title="Optimizer state lost at a resume",
    prior=-3.0,
    weights={
        "moments.reset": 5.5,
        "state.resumed": 1.5,
        "update.large": 1.0,
        "moments.continuous": -6.0,
        "state.no_resume": -2.0,
        "lr.jump": -0.5,
        "data.no_labels": -3.0,
        "loss.alone": -3.0,
        "token_loss.disagrees": -3.0,
        "weights.unprovoked_jump": -1.0,
        "data.baseline_harmless": 1.0,
        "data.baseline_harmful": -1.0,
    },
    root_cause_sentence=_root_cause_sentence,
    remedies=_remedies,
    proof_text=(
        "Resume from the same checkpoint with the moments restored and nothing else changed: the rise disappears."
    ),
    lesson="A resume is complete only if moments, step count and betas are restored: assert them after every load.",
    predicts=lambda suspect: (
        Prediction((Change("moments", values=("restored",)),), "cures"),
        Prediction((Change("replace", (suspect.window,)),), "persists"),
    ),
    fix=lambda suspect: (Change("moments", values=("restored",)),),
    doc=__doc__,
)
