"""The log is wrong, but the run is fine.

One loss value lies far outside its usual range, while the per-token losses, the gradient norm, the parameters and the
next step are normal. Only a column that followed the loss before can testify to that: many gradient norms hardly do,
and a batch that is wrong may leave them alone. Any other panel that departs with the loss rules it out.

**Smallest fix.** Fix the logger; the run needs no change.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed
from postmortem.diagnosis import Prediction, Remedy


def _root_cause_sentence(case: Case, observed: Observed) -> str:
    alone = observed.get("loss.alone") or observed.get("token_loss.disagrees")
    reason = f": {alone.text}" if alone else ""
    return f"The logged value at step {case.incident.peak_step} is wrong, but the training is fine{reason}."


def _remedies(case: Case, observed: Observed) -> tuple[Remedy, ...]:
    return (
        Remedy("Fix the logger (a wrong reduction, a shifted step, two writers).", "none on the run"),
        Remedy("Roll back or skip.", declined="nothing happened to the parameters"),
    )


CAUSE = Cause(
    slug="logging_artifact",
    title="Logging artifact",
    prior=-2.5,
    weights={
        "activations.nonfinite": -3.0,
        "moments.nonfinite": -3.0,
        "weights.jump_alone": -3.0,
        "grad_norm.flat": 0.5,
        "loss.one_row": 0.5,
        "loss.suspected_nonfinite": 1.0,
        "loss.never_finite": -3.0,
        "loss.diverges": -4.0,
        "loss.alone": 4.5,
        "token_loss.disagrees": 2.5,
        "loss.stays_up": -4.0,
        "loss.stays_nonfinite": -3.0,
        "loss.flat": -2.0,
        "loss.recurring": -1.0,
        "loss.falls_for_good": -2.0,
        "loss.stays_above_uniform": -2.0,
        "grad_norm.spike": -4.0,
        "grad_norm.raised": -2.0,
        "grad_norm.nonfinite": -3.0,
        "grad_norm.nonfinite_first": -4.0,
        "grad_norm.clip_off": -1.0,
        "token_loss.tail": -3.0,
        "token_loss.whole": -3.0,
        "activations.moved": -2.0,
        "weights.jump": -3.0,
        "weights.unprovoked_jump": -4.0,
        "weights.changed_at_resume": -3.0,
        "weights.nonfinite": -4.0,
        "weights.nonfinite_first": -4.0,
        "lr.jump": -2.0,
        "moments.other_update": -2.0,
        "moments.reset": -3.0,
        "data.repeat": -2.0,
        # The batch of that very step is unusual, which explains the point: a wrong log would be a coincidence.
        "data.unlikely": -2.5,
        "data.excess_tokens": -2.5,
        "data.concentrated_token": -2.5,
        "data.no_labels": -3.0,
        "update.large": -2.0,
        "data.baseline_harmless": 0.5,
        "data.baseline_harmful": -2.0,
        "data.batch_changed": -1.0,
        "data.epoch_period": -3.0,
        "state.baseline_same_step": -1.0,
        "state.nonfinite_parameters": -4.0,
        "state.rows_lost": 0.5,
        "state.not_training": -1.0,
        "state.ranks_differ": -3.0,
    },
    root_cause_sentence=_root_cause_sentence,
    remedies=_remedies,
    proof_text="Null replay: the point is normal. No intervention is needed.",
    lesson="A point that no column which follows the loss confirms is one of the log, and not of the run",
    predicts=lambda suspect: (Prediction((), "vanishes"),),
    fix=lambda suspect: (),
    harmless=True,
    doc=__doc__,
)
