"""The optimizer's moments or hyperparameters were not restored at a resume.

At a resume m, v and the step count fall back, and the first updates are badly scaled until the moments have been
estimated anew (update RMS ÷ lr goes to about 1, or to (1−β1)/√(1−β2) = 3.16 at β2 = 0.999 where only the moments
were zeroed): the loss rises for some 10–50 steps. Continuous moments rule it out. A checkpoint that holds
parameters only *is* an optimizer reset when it is restored.

**Smallest fix.** Restore m, v, step and betas together with the parameters.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Seen
from postmortem.causes._remedies import roll_back
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy


def _sentence(case: Case, seen: Seen) -> str:
    reset, resumed = seen.get("moments.reset"), seen.get("state.resumed")
    when = f"At the resume ({resumed.text})" if resumed else f"At step {case.onset}"
    what = reset.text if reset else "the moments seem not to have been restored"
    return f"{when} the optimizer lost its state: {what}."


def _changes(case: Case, seen: Seen) -> tuple[Remedy, ...]:
    return (
        roll_back(case, "resume with the optimizer's moments, step count and betas restored"),
        Remedy(
            "Assert after every load that the moments' norms and the optimizer's step equal those saved.",
            "one norm over the moments at each resume",
        ),
        Remedy(
            "Warm the learning rate up again after the resume.",
            declined="treats the symptom; needed only where the moments are lost for good",
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
    sentence=_sentence,
    changes=_changes,
    replay="Resume from the same checkpoint with the moments restored and nothing else changed: the rise goes.",
    lesson="A resume is proven only when moments, step count and betas come back: assert them after every load.",
    predicts=lambda at: (
        Prediction((Change("moments", values=("restored",)),), "cures"),
        Prediction((Change("replace", (at.window,)),), "persists"),
    ),
    remedy=lambda at: (Change("moments", values=("restored",)),),
    doc=__doc__,
)
