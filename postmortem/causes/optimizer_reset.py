"""A resume did not restore all of the state: the optimizer, the schedule, the loader, or another piece.

The optimizer is the piece that is lost most often. Then m, v and the step count fall at the resume, and the first
updates are badly scaled until the moments are estimated again (update RMS ÷ lr goes to about 1, or to
(1−β1)/√(1−β2) = 3.16 at β2 = 0.999 where only the moments were zeroed). The loss rises for about 10–50 steps. Restoring
a checkpoint that has parameters only *is* an optimizer reset. A lost schedule shows as a jump of the learning rate at
the resume, a lost loader as batches that come again. The journal's resume event says which pieces were not restored.

Continuous moments rule it out, unless the journal says that another piece was lost. All pieces that one resume lost are
one cause: a jump of the rate there is no discontinuity of its own.

**Smallest fix.** Restore m, v, step and betas together with the parameters, and schedule, loader and random state too.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed, Suspect
from postmortem.causes._remedies import roll_back
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy

_MOMENTS = Change("moments", values=("restored",))


def _root_cause_sentence(case: Case, observed: Observed) -> str:
    incomplete = observed.get("state.incomplete_resume")
    resumed = incomplete or observed.get("state.resumed") or observed.get("state.full_resume")
    resume = f"When the run was resumed at step {resumed.step}," if resumed else f"At step {case.onset}"
    effects = [
        observed[slug].text
        for slug in ("moments.reset", "moments.other_update", "state.schedule_lost", "state.loader_lost")
        if slug in observed
    ]
    if incomplete:
        evidence = f": {'; '.join(effects)}" if effects else ""
        return f"{resume} it came back without {incomplete.figures['lost']}{evidence}."
    evidence = "; ".join(effects) or "it seems that the moments were not restored"
    return f"{resume} the optimizer lost its state: {evidence}."


def _remedies(case: Case, observed: Observed) -> tuple[Remedy, ...]:
    incomplete = observed.get("state.incomplete_resume")
    pieces = "the optimizer's moments, step count and betas"
    if incomplete and case.pieces_lost != frozenset({"optimizer"}):
        pieces = str(incomplete.figures["lost"])
    return (
        roll_back(case, f"resume with {pieces} restored", complete=True, lower_rate=False),
        Remedy(
            "Assert after every load that the norms of the moments and the optimizer's step equal the saved ones.",
            "one norm over the moments at each resume",
        ),
        Remedy(
            "Warm the learning rate up again after the resume.",
            declined="treats the symptom; needed only where the moments are lost forever",
        ),
    )


def _repairs(suspect: Suspect) -> tuple[Change, ...]:
    """The changes of a replay that restore what the resume lost; the moments where the journal names no piece."""
    repairs = {
        "optimizer": _MOMENTS,
        "schedule": Change("lr-smooth", values=(suspect.jump,)),
        "loader": Change("distinct"),
    }
    return tuple(change for piece, change in repairs.items() if piece in suspect.lost) or (_MOMENTS,)


def _predictions(suspect: Suspect) -> tuple[Prediction, ...]:
    cures = Prediction(_repairs(suspect), "cures")
    return (
        (cures,)
        if "loader" in suspect.lost
        else (cures, Prediction((Change("replace", (suspect.window,)),), "persists"))
    )


CAUSE = Cause(
    slug="optimizer_reset",
    title="Incomplete resume",
    prior=-3.0,
    weights={
        "moments.reset": 5.5,
        "moments.other_update": 4.0,
        "update.without_moments": 3.0,
        "weights.changed_at_resume": 1.0,
        "loss.at_resumes": 1.0,
        "state.resumed": 1.5,
        "state.incomplete_resume": 3.5,
        "state.schedule_lost": 4.0,
        "state.loader_lost": 4.0,
        "update.large": 1.0,
        "moments.continuous": -6.0,
        "moments.count_continues": -0.5,
        "state.no_resume": -2.0,
        "state.full_resume": -1.0,
        "state.not_training": -2.0,
        "state.ranks_differ": -1.0,
        "lr.jump": -0.5,
        "data.no_labels": -3.0,
        "loss.alone": -3.0,
        "loss.falls_for_good": -2.0,
        "loss.reduction_changed": -3.0,
        "token_loss.disagrees": -3.0,
        "weights.unprovoked_jump": -1.0,
        "data.baseline_harmless": 1.0,
        "data.baseline_harmful": -1.0,
        "data.epoch_period": -2.0,
    },
    root_cause_sentence=_root_cause_sentence,
    remedies=_remedies,
    proof_text=(
        "Resume from the same checkpoint with the moments (or what else was lost) restored and nothing else changed: "
        "the rise disappears."
    ),
    lesson=("A resume is complete only if moments, step count, betas, schedule, loader and random state are restored"),
    predicts=_predictions,
    fix=_repairs,
    doc=__doc__,
)
