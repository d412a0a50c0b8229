"""The learning rate is too high for the loss surface at this stage (edge of stability).

Incidents recur where lr is high, and do not depend on a batch: the same batch is harmless elsewhere. They often occur
near the end of warmup; gradient norm and updates grow before the loss does, and stay high after it, and units may die.
A single incident that follows one batch rules it out, and so do incidents that begin at resumes or come back with a
period: those are of the data or of the state. Incidents that only recur, or a loss that only diverges, point to no
cause yet. The panels alone cannot distinguish it from a stale second moment (`stale_second_moment`): a replay with a
lower β2 can.

**Smallest fix.** A lower peak lr, or a longer warmup.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed
from postmortem.causes._remedies import lower_clip, lower_rate, rate_at_onset
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy
from postmortem.text import number


def _root_cause_sentence(case: Case, observed: Observed) -> str:
    recurring, lr = observed.get("loss.recurring"), rate_at_onset(case)
    rate = f" of {number(lr)}" if lr else ""
    recurrence = f": {recurring.text}, and they do not depend on one batch" if recurring else ""
    return f"The learning rate{rate} is too high for this stage of the training{recurrence}."


def _remedies(case: Case, observed: Observed) -> tuple[Remedy, ...]:
    reason = "the incidents recur on other batches" if "loss.recurring" in observed else "no batch stands out"
    return (
        lower_rate(case),
        lower_clip(case),
        Remedy("Skip the batches.", declined=reason),
    )


CAUSE = Cause(
    slug="lr_too_high",
    title="Learning rate too high",
    prior=-2.5,
    weights={
        "grad_norm.clip_off": 0.5,
        "lr.extreme": 2.5,
        "weights.large_steps": 2.0,
        "lr.recurs_high": 2.0,
        "loss.diverges": 0.7,
        "loss.recurring": 1.0,
        "loss.above_uniform": 0.5,
        "loss.stays_above_uniform": 0.5,
        "grad_norm.grows": 1.0,
        "grad_norm.leads": 0.7,
        "grad_norm.stays_up": 0.7,
        "lr.near_peak": 1.0,
        "update.grows": 1.0,
        "update.large": 0.3,
        "dead_units.moved": 1.0,
        "data.same_batch_harmless": 1.0,
        "data.same_batch_harmful": -2.0,
        "loss.stays_up": 0.3,
        "activations.moved": 0.3,
        "token_loss.whole": 0.3,
        "moments.stale": 0.5,
        "weights.jump": 0.5,
        "loss.at_resumes": -3.0,
        "loss.periodic": -2.0,
        "grad_norm.integer_factor": -2.0,
        "lr.jump": -3.0,
        "data.rare_tokens": -1.5,
        "data.unlikely": -1.5,
        "data.new_source": -2.5,
        "data.source_changed": -1.5,
        "data.no_labels": -4.0,
        "data.repeat": -3.0,
        "moments.other_update": -2.0,
        "moments.reset": -3.0,
        "update.without_moments": -2.0,
        "weights.changed_at_resume": -2.0,
        "state.resumed": -1.5,
        "state.incomplete_resume": -2.0,
        "state.full_resume": -1.0,
        "loss.alone": -4.0,
        "token_loss.disagrees": -4.0,
        "loss.one_row": -1.5,
        "loss.falls_for_good": -3.0,
        "loss.reduction_changed": -4.0,
        "weights.unprovoked_jump": -3.0,
        "weights.changed_between": -3.0,
        "token_loss.tail": -0.5,
        "numerics.scale_drop_first": -1.0,
        "data.baseline_harmless": 1.0,
        "data.baseline_harmful": -1.0,
        "data.epoch_period": -4.0,
        "data.epoch_start": -0.5,
        "state.baseline_same_step": 0.5,
        "state.rate_raised": 2.0,
        "state.rate_lowered": -0.5,
        "state.schedule_changed": 0.5,
        "state.data_changed": -0.5,
        "state.not_training": -3.0,
        "state.ranks_differ": -2.0,
    },
    root_cause_sentence=_root_cause_sentence,
    remedies=_remedies,
    proof_text=(
        "Halve the learning rate, with the same data: the spikes move or vanish, and do not stay with the batch."
    ),
    lesson="Spikes that do not depend on one batch point to the learning rate",
    rivals=("stale_second_moment",),
    predicts=lambda suspect: (
        Prediction(tuple(Change("lr-scale", values=(factor,)) for factor in (0.5, 0.1, 0.02)), "cures", early=True),
        Prediction((Change("lr-smooth", values=(suspect.jump,)),), "persists"),
        Prediction((Change("moments", values=("restored",)),), "persists"),
        Prediction((Change("replace", (suspect.window,)),), "persists"),
        Prediction((Change("distinct"),), "persists"),
    ),
    fix=lambda suspect: (Change("lr-scale", values=(suspect.rate,)),),
    doc=__doc__,
)
