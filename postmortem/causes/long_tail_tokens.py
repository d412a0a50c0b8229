"""One batch contains many rare tokens.

Their embeddings have hardly been trained, so a few positions have an enormous loss and an enormous gradient. Loss and
gradient norm jump in the same step, the per-token loss has a heavy right tail while the median token does not move, and
the batch has more rare tokens than usual, or most samples of the corpus that contain one of them. It is ruled out by a
histogram that shifts as a whole, and by the same batch being harmless under earlier parameters. With one suspect batch
and no token statistics, it cannot be distinguished from `garbage_data`.

**Smallest fix.** Spread rare tokens over batches (stratified batching), lower the clip threshold, or skip the batch.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed
from postmortem.causes._remedies import lower_clip, skip
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy
from postmortem.text import number, times


def _root_cause_sentence(case: Case, observed: Observed) -> str:
    tail, rare, norm = (
        observed.get("token_loss.tail"),
        observed.get("data.rare_tokens"),
        observed.get("grad_norm.spike"),
    )
    few, held = observed.get("token_loss.few_ids"), observed.get("data.concentrated_token")
    seen = "; ".join(o.text for o in (held, few) if o)
    tokens = f" ({seen})" if seen else ""
    rare_tokens = (
        f", with {number(rare.figure('value'))} rare tokens instead of the usual {number(rare.figure('baseline'))},"
        if rare
        else ""
    )
    worst = f"; the worst token has a loss of {number(tail.figure('highest'))} nats" if tail else ""
    gradient = f"; the gradient norm rises to {times(norm.figure('ratio'))} its usual size" if norm else ""
    return (
        f"The batch of step {case.onset}{rare_tokens} concentrates tokens that the model has hardly seen"
        f"{tokens}{worst}{gradient}."
    )


def _remedies(case: Case, observed: Observed) -> tuple[Remedy, ...]:
    return (
        Remedy(
            "Stratify batches so that no batch has more than one of the tokens that occur fewer than ten times.",
            "one sort of the sample list; the size of the steps does not change",
        ),
        lower_clip(case),
        skip(case, case.batch_window(rows=1)),
        Remedy(
            "Tokenize again so that the rare pieces disappear.",
            declined="hides the long tail instead of limiting it, and costs the whole run",
        ),
    )


CAUSE = Cause(
    slug="long_tail_tokens",
    title="Long-tail tokens concentrated in one batch",
    prior=-2.5,
    weights={
        "data.concentrated_token": 2.5,
        "data.excess_tokens": 3.0,  # as much as a count of rare tokens: it is one
        "data.unlikely": -3.0,
        "data.likely": -1.0,
        "activations.nonfinite": -2.0,
        "loss.diverges": -2.0,
        "loss.stays_above_uniform": -1.5,  # one batch passes
        "data.rare_tokens": 3.0,
        "token_loss.tail": 2.5,
        "token_loss.few_ids": 1.0,
        "grad_norm.spike": 1.0,
        "grad_norm.raised": 0.5,
        "activations.moved": 0.5,
        "loss.spike": 0.5,
        "data.usual_source": 0.3,
        "token_loss.whole": -2.0,
        "token_loss.disagrees": -5.0,
        "token_loss.flat": -2.0,
        "data.rare_tokens_normal": -2.5,
        "data.repeat": -3.0,
        "data.new_source": -1.5,
        "data.no_labels": -4.0,
        "data.same_batch_harmless": -1.0,
        "data.same_batch_harmful": 1.5,
        "loss.flat": -1.0,
        "loss.alone": -5.0,
        "loss.stays_nonfinite": -3.0,
        "loss.recurring": -1.0,
        "loss.near_uniform": -0.5,
        "loss.falls_for_good": -3.0,
        "loss.reduction_changed": -4.0,
        "lr.jump": -3.0,
        "moments.other_update": -2.0,
        "moments.reset": -3.0,
        "weights.unprovoked_jump": -3.0,
        "weights.nonfinite_unprovoked": -3.0,
        "grad_norm.flat": -1.0,
        "grad_norm.drop": -3.0,
        "grad_norm.nonfinite_first": -2.0,
        "numerics.scale_drop_first": -2.0,
        "data.baseline_harmless": -1.0,
        "data.baseline_harmful": 1.0,
        "data.batch_changed": -0.5,
        "data.epoch_period": -4.0,
        "data.epoch_start": -0.5,
        "state.baseline_same_step": -1.5,
        "state.data_changed": 0.5,
        "state.not_training": -3.0,
        "state.ranks_differ": -1.0,
        "state.config_change": -0.5,
        "state.batch_size_changed": -0.5,
        "state.environment_change": -0.5,
        "state.rate_raised": -0.5,
    },
    root_cause_sentence=_root_cause_sentence,
    remedies=_remedies,
    proof_text=(
        "Three replays: replace that batch by an ordinary one (the spike disappears), consume it at another step (the "
        "spike follows), mask only the rare tokens (the spike disappears)."
    ),
    lesson="One batch of rare tokens can dominate the gradient norm",
    rivals=("garbage_data",),
    suspect_batch_count=lambda case, observed: 1,
    predicts=lambda suspect: (
        Prediction((Change("mask", (suspect.window,)),), "cures"),
        Prediction((Change("replace", (suspect.window,)),), "cures"),
        Prediction((Change("move", (suspect.window,), (suspect.move_to,)),), "follows"),
    ),
    fix=lambda suspect: (Change("skip", (suspect.window,)),),
    doc=__doc__,
)
