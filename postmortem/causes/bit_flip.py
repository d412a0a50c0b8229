"""Silent data corruption: a parameter changed although no update could have changed it so much.

A parameter norm moves violently in one step whose gradient, update and learning rate were ordinary, and the loss
follows in the next step; or in the same one, with the gradient, where the parameter changed before the forward pass.
Then the norm moves further than the updates of that step can move it. The incident does not reproduce: a null replay of
the same batches from the same checkpoint does not show it. It is ruled out by a replay that shows the incident, by
weights that changed no more than before, and by a resume at that step, which may have loaded other weights.

**Smallest fix.** Replace the node, and restore the last checkpoint before the incident.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed
from postmortem.causes._remedies import roll_back
from postmortem.diagnosis import Prediction, Remedy


def _root_cause_sentence(case: Case, observed: Observed) -> str:
    slugs = ("weights.unprovoked_jump", "weights.nonfinite_unprovoked", "weights.changed_between")
    jump = next((observed[slug] for slug in slugs if slug in observed), None)
    change = jump.text if jump else f"a parameter seems to have moved by itself near step {case.onset}"
    return f"A parameter changed, and no update explains it: {change}."


def _remedies(case: Case, observed: Observed) -> tuple[Remedy, ...]:
    return (
        roll_back(case, "resume on another node", lower_rate=False),
        Remedy("Take the node out of use and run a memory test on it.", "one node less until it has passed"),
        Remedy("Skip the batch.", declined="no batch caused this"),
    )


CAUSE = Cause(
    slug="bit_flip",
    title="Silent data corruption (bit flip)",
    prior=-3.5,
    weights={
        "weights.jump_alone": 1.5,
        "weights.unprovoked_jump": 6.0,
        "weights.nonfinite_unprovoked": 4.0,
        "weights.changed_between": 5.0,
        "weights.smooth": -4.0,
        "weights.changed_at_resume": -3.0,
        "loss.above_uniform": 0.5,
        "loss.at_resumes": -2.0,
        "grad_norm.integer_factor": -2.0,
        "weights.jump": -2.5,
        "weights.nonfinite_first": -2.0,
        "state.resumed": -1.5,
        "state.full_resume": -0.5,
        "moments.reset": -2.0,
        "lr.jump": -2.0,
        "data.no_labels": -3.0,
        "loss.alone": -4.0,
        "loss.falls_for_good": -3.0,
        "loss.reduction_changed": -4.0,
        "token_loss.disagrees": -4.0,
        "data.rare_tokens": -1.0,
        "data.unlikely": -1.5,
        "data.same_batch_harmful": -2.0,
        "data.repeat": -2.0,
        "data.baseline_harmless": 1.0,
        "data.baseline_harmful": -2.0,
        "data.batch_changed": -1.5,
        "data.epoch_period": -3.0,
        "data.epoch_start": -1.0,
        "state.baseline_same_step": -1.0,
        "state.incomplete_resume": -1.5,
        "state.data_changed": -0.5,
        "state.not_training": -3.0,
        "state.config_change": -1.0,
        "state.batch_size_changed": -1.0,
        "state.clipping_changed": -1.0,
        "state.environment_change": -0.5,
        "state.rate_raised": -1.0,
        "state.schedule_changed": -1.0,
        "grad_norm.clip_off": -1.0,
    },
    root_cause_sentence=_root_cause_sentence,
    remedies=_remedies,
    proof_text="Null replay from the checkpoint before the incident, nothing changed: the incident does not appear.",
    lesson="A parameter that moves without an update points to hardware",
    predicts=lambda suspect: (Prediction((), "vanishes"),),
    fix=lambda suspect: (),
    doc=__doc__,
)
