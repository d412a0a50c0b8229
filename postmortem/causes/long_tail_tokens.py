"""One batch concentrates rare tokens.

Their embeddings have hardly been trained, so the loss on a few positions is enormous and so is its gradient. You
see loss and grad norm jump in the same step, a heavy right tail of the per-token loss while the median token stays
put, and more rare tokens in the batch than usual. It is ruled out by a histogram that shifts as a whole, and by the
same batch having been harmless under earlier parameters. With one suspect batch and no token statistics it cannot
be told from `garbage_data`.

**Smallest fix.** Spread rare tokens over batches (stratified batching), lower the clip threshold, or skip the
batch.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Seen
from postmortem.causes._remedies import lower_clip, skip
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy
from postmortem.text import number, times


def _sentence(case: Case, seen: Seen) -> str:
    tail, rare, norm = seen.get("token_loss.tail"), seen.get("data.rare_tokens"), seen.get("grad_norm.spike")
    few = seen.get("token_loss.few_ids")
    which = f" ({few.text})" if few else ""
    count = (
        f" with {number(rare.figure('value'))} rare tokens, {number(rare.figure('baseline'))} being usual,"
        if rare
        else ""
    )
    heavy = f", where the worst token cost {number(tail.figure('highest'))} nats" if tail else ""
    driven = f", and drove the gradient norm to {times(norm.figure('ratio'))} its usual size" if norm else ""
    return f"The batch of step {case.onset}{count} concentrates tokens the model has hardly seen{which}{heavy}{driven}."


def _changes(case: Case, seen: Seen) -> tuple[Remedy, ...]:
    return (
        Remedy(
            "Stratify batches so that no batch holds more than one of the tokens that occur fewer than ten times.",
            "one sort of the sample list; no step changes its size",
        ),
        lower_clip(case),
        skip(case, case.batch_window(rows=1)),
        Remedy(
            "Tokenise anew so that the rare pieces disappear.",
            declined="hides the long tail instead of bounding it, and costs the whole run",
        ),
    )


CAUSE = Cause(
    slug="long_tail_tokens",
    title="Long-tail tokens concentrated in one batch",
    prior=-2.5,
    weights={
        "loss.diverges": -2.0,
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
        "loss.flat": -1.0,
        "loss.alone": -5.0,
        "loss.stays_nonfinite": -3.0,
        "loss.recurring": -1.0,
        "loss.near_uniform": -0.5,
        "lr.jump": -3.0,
        "moments.reset": -3.0,
        "weights.unprovoked_jump": -3.0,
        "weights.nonfinite_unprovoked": -3.0,
        "grad_norm.flat": -1.0,
        "grad_norm.drop": -3.0,
        "grad_norm.nonfinite_first": -2.0,
        "numerics.scale_drop_first": -2.0,
        "data.baseline_harmless": -1.0,
        "data.baseline_harmful": 1.0,
        "state.baseline_same_step": -1.5,
    },
    sentence=_sentence,
    changes=_changes,
    replay=(
        "Replace that batch by an ordinary one (the spike goes), consume it at another step (the spike "
        "follows), mask only the rare tokens (the spike goes): three replays."
    ),
    lesson=(
        "One batch of rare tokens can dominate the gradient norm; stratify batches by token frequency and clip "
        "near the usual norm."
    ),
    rivals=("garbage_data",),
    skip_rows=lambda case, seen: 1,
    predicts=lambda at: (
        Prediction((Change("mask", (at.window,)),), "cures"),
        Prediction((Change("replace", (at.window,)),), "cures"),
        Prediction((Change("move", (at.window,), (at.elsewhere,)),), "follows"),
    ),
    remedy=lambda at: (Change("skip", (at.window,)),),
    doc=__doc__,
)
