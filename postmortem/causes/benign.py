"""Noise, a hard batch, or an intended rewarm of the learning rate.

No level shift beyond the noise remains, and no other panel moves. A level shift of more than two standard errors, or
another panel that moves, rules it out.

**Smallest fix.** None.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed
from postmortem.diagnosis import Remedy
from postmortem.text import number


def _root_cause_sentence(case: Case, observed: Observed) -> str:
    spike = observed.get("loss.spike")
    figures = f" ({spike.text})" if spike else ""
    return f"The departure at step {number(case.onset)}{figures} has no lasting effect, and no other panel shares it."


def _remedies(case: Case, observed: Observed) -> tuple[Remedy, ...]:
    return (
        Remedy("Change nothing.", "none"),
        Remedy("Skip the batch.", declined="it did no lasting harm"),
    )


CAUSE = Cause(
    slug="benign",
    title="Benign",
    prior=-2.0,
    weights={
        "activations.nonfinite": -4.0,
        "moments.nonfinite": -4.0,
        "update.before_nonfinite": -1.0,
        "weights.jump_alone": -2.0,
        "numerics.skipped_nonfinite_loss": -1.0,
        "data.concentrated_token": -0.7,
        "data.unlikely": -2.0,
        "data.same_batch_harmful": -1.0,
        "data.excess_tokens": -0.7,
        "loss.never_finite": -6.0,
        "loss.diverges": -4.0,
        "loss.one_row": 0.7,
        "loss.flat": 1.0,
        "grad_norm.flat": 1.0,
        "weights.smooth": 0.5,
        "update.flat": 0.3,
        "activations.flat": 0.5,
        "loss.stays_up": -4.0,
        "loss.stays_nonfinite": -6.0,
        "loss.nonfinite": -4.0,
        "loss.suspected_nonfinite": -4.0,
        "loss.alone": -1.5,
        "loss.recurring": -1.0,
        "loss.at_resumes": -2.0,
        "loss.periodic": -1.0,
        "loss.above_uniform": -2.0,
        "loss.stays_above_uniform": -4.0,
        "grad_norm.grows": -0.5,
        "grad_norm.integer_factor": -2.0,
        "update.without_moments": -2.0,
        "weights.changed_at_resume": -2.0,
        "weights.large_steps": -2.0,
        "loss.near_uniform": -2.0,
        "loss.drop": -1.0,
        "grad_norm.spike": -1.5,
        "grad_norm.raised": -0.5,
        "grad_norm.stays_up": -2.0,
        "loss.eval_rise": -4.0,
        "loss.eval_nonfinite": -4.0,
        "loss.falls_for_good": -3.0,
        "loss.reduction_changed": -4.0,
        "state.not_training": -4.0,
        "state.ranks_differ": -4.0,
        "state.reinitialized": -4.0,
        "grad_norm.nonfinite": -4.0,
        "grad_norm.nonfinite_first": -4.0,
        "grad_norm.clip_off": -2.5,
        "grad_norm.clip_changed": -2.0,
        "token_loss.tail": -1.0,
        "token_loss.whole": -1.5,
        "token_loss.disagrees": -1.0,
        "activations.moved": -1.0,
        "weights.jump": -2.0,
        "weights.unprovoked_jump": -4.0,
        "weights.nonfinite": -5.0,
        "weights.nonfinite_first": -5.0,
        "weights.nonfinite_unprovoked": -5.0,
        "lr.jump": -3.0,
        "moments.other_update": -2.0,
        "moments.reset": -3.0,
        "data.repeat": -3.0,
        "data.new_source": -2.0,
        "data.source_changed": -1.0,
        "data.no_labels": -4.0,
        "data.rare_tokens": -1.0,
        "data.batch_changed": -2.5,
        "data.epoch_period": -1.0,
        "numerics.scale_drop_first": -2.0,
        "numerics.skipped": -1.0,
        "update.large": -1.0,
        "state.nonfinite_parameters": -5.0,
        "state.incomplete_resume": -1.0,
        "state.rate_raised": -0.5,
        "state.data_changed": -0.5,
        "state.config_change": -0.5,
        "state.batch_size_changed": -0.5,
        "state.clipping_changed": -0.5,
        "state.environment_change": -0.5,
    },
    root_cause_sentence=_root_cause_sentence,
    remedies=_remedies,
    proof_text="None is needed; a null replay would show the same departure and the same recovery.",
    lesson="A departure that recovers at once and that no other panel shares does no lasting harm",
    harmless=True,
    doc=__doc__,
)
