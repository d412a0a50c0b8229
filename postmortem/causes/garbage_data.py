"""A corrupt or wrong shard reaches the model.

Consecutive batches come from one source, the whole histogram of the per-token loss shifts, and the loss is near ln V:
the tokens are unpredictable. It is ruled out when the batches come from sources that were fine before, or when other
sources spike as well. The PaLM paper is often cited for junk shards, but it found the opposite: the same batches were
harmless from another checkpoint.

**Smallest fix.** Quarantine the shard, and skip its window.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed
from postmortem.causes._remedies import skip
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy
from postmortem.text import number


def _suspect_batch_count(case: Case, observed: Observed) -> int | None:
    new = observed.get("data.new_source")
    return int(new.figure("rows")) if new else None


def _root_cause_sentence(case: Case, observed: Observed) -> str:
    new, uniform = (
        observed.get("data.new_source") or observed.get("data.new_source_once"),
        observed.get("loss.near_uniform"),
    )
    where = f": {new.text}" if new else ""
    level = (
        f", and the loss reaches {number(uniform.figure('value'))}: a guess costs ln V = "
        f"{number(uniform.figure('ln_vocab'))}"
        if uniform
        else ""
    )
    return f"From step {case.onset} on the batches are unpredictable{where}{level}."


def _remedies(case: Case, observed: Observed) -> tuple[Remedy, ...]:
    return (
        Remedy(
            "Quarantine the source, and look at its samples before you use it again.",
            "loses that source's share of the mixture",
            done=case.response.changed_data(),
        ),
        skip(case, case.batch_window(_suspect_batch_count(case, observed))),
        Remedy(
            "Lower the clip threshold.", declined="it limits each update, but the model would still be trained on noise"
        ),
    )


CAUSE = Cause(
    slug="garbage_data",
    title="Garbage data from one source",
    prior=-2.5,
    weights={
        # Random tokens contain rare ones, but not a few ids far more often than others.
        "data.concentrated_token": 0.5,
        "data.rare_tokens": 1.0,
        "data.unlikely": 4.0,
        "data.likely": -2.5,
        "data.excess_tokens": -2.0,
        "loss.diverges": -1.0,
        "data.new_source": 2.5,
        "data.new_source_once": 1.0,
        "data.source_changed": 1.0,
        "token_loss.whole": 2.0,
        "loss.near_uniform": 3.0,
        "grad_norm.spike": 0.5,
        "loss.falls_for_good": -3.0,
        "loss.reduction_changed": -4.0,
        "loss.below_uniform": -2.0,
        "loss.above_uniform": -1.5,
        "loss.stays_above_uniform": -1.0,
        "loss.spike": 0.5,
        "data.usual_source": -2.5,
        "data.repeat": -2.0,
        "data.no_labels": -3.0,
        "token_loss.tail": -1.0,
        "token_loss.disagrees": -5.0,
        "token_loss.flat": -2.0,
        "loss.alone": -5.0,
        "loss.flat": -2.0,
        "loss.drop": -0.5,
        "loss.stays_nonfinite": -2.0,
        "loss.recurring": -0.5,
        "lr.jump": -3.0,
        "moments.other_update": -2.0,
        "moments.reset": -3.0,
        "weights.unprovoked_jump": -3.0,
        "weights.nonfinite_unprovoked": -3.0,
        "grad_norm.nonfinite_first": -2.0,
        "data.same_batch_harmless": -1.5,
        "data.same_batch_harmful": 1.5,
        # The samples, not their neighbors, are what is bad in garbage; a long tail is in how they were put together.
        "data.same_samples_harmless": -2.5,
        "numerics.scale_drop_first": -2.0,
        "data.baseline_harmless": -1.5,
        "data.baseline_harmful": 1.0,
        "state.baseline_same_step": -1.5,
        "state.rate_raised": -0.5,
        "state.config_change": -0.5,
        "state.batch_size_changed": -0.5,
        "state.environment_change": -0.5,
        "state.not_training": -2.0,
        "state.ranks_differ": -1.0,
        "state.data_changed": 2.0,
        "data.epoch_period": -3.0,
    },
    root_cause_sentence=_root_cause_sentence,
    remedies=_remedies,
    proof_text=(
        "Replace the suspect shard by a sound one of the same length: the spike disappears. As a placebo, replace a "
        "shard elsewhere: the spike stays."
    ),
    lesson="An unpredictable shard trains nothing but noise",
    rivals=("long_tail_tokens",),
    suspect_batch_count=_suspect_batch_count,
    predicts=lambda suspect: (
        Prediction((Change("replace", (suspect.window,)),), "cures"),
        Prediction((Change("mask", (suspect.window,)),), "persists"),
        Prediction((Change("unmask", (suspect.window,)),), "persists"),
        Prediction((Change("drop-rows", (suspect.window,)),), "persists"),
        Prediction((Change("move", (suspect.window,), (suspect.move_to,)),), "follows"),
    ),
    fix=lambda suspect: (Change("skip", (suspect.window,)),),
    doc=__doc__,
)
