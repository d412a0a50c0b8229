"""A corrupt or wrong shard reaches the model.

Contiguous steps draw from one source, the whole histogram of the per-token loss shifts, and the loss stands near ln
V: the tokens cannot be predicted at all. It is ruled out when the batches come from sources that were fine before,
or when other sources spike as well. PaLM is often cited for junk shards, but found the opposite: the same batches
were harmless from another checkpoint.

**Smallest fix.** Quarantine the shard and skip its window.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Seen
from postmortem.causes._remedies import lower_clip, skip
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy
from postmortem.text import number


def _rows(case: Case, seen: Seen) -> int | None:
    new = seen.get("data.new_source")
    return int(new.figure("rows")) if new else None


def _sentence(case: Case, seen: Seen) -> str:
    new, uniform = seen.get("data.new_source") or seen.get("data.new_source_once"), seen.get("loss.near_uniform")
    where = f": {new.text}" if new else ""
    level = (
        f", and the loss reaches {number(uniform.figure('value'))}, about ln V = {number(uniform.figure('ln_vocab'))}"
        if uniform
        else ""
    )
    return f"From step {case.onset} the batches cannot be predicted{where}{level}."


def _changes(case: Case, seen: Seen) -> tuple[Remedy, ...]:
    return (
        Remedy(
            "Quarantine the source and look at its samples before it is used again.",
            "loses that source's share of the mixture",
        ),
        skip(case, case.batch_window(_rows(case, seen))),
        Remedy(
            "Lower the clip threshold.", declined="it bounds each update, and the model would still be trained on noise"
        ),
        lower_clip(case)
        if "grad_norm.spike" in seen
        else Remedy("Lower the learning rate.", declined="the data is wrong, not the step size"),
    )[:3]


CAUSE = Cause(
    slug="garbage_data",
    title="Garbage data from one source",
    prior=-2.5,
    weights={
        "loss.diverges": -1.0,
        "data.new_source": 2.5,
        "data.new_source_once": 1.0,
        "token_loss.whole": 2.0,
        "loss.near_uniform": 3.0,
        "grad_norm.spike": 0.5,
        "loss.below_uniform": -2.0,
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
        "moments.reset": -3.0,
        "weights.unprovoked_jump": -3.0,
        "weights.nonfinite_unprovoked": -3.0,
        "grad_norm.nonfinite_first": -2.0,
        "data.same_batch_harmless": -1.5,
        "numerics.scale_drop_first": -2.0,
        "data.baseline_harmless": -1.5,
        "data.baseline_harmful": 1.0,
        "state.baseline_same_step": -1.5,
    },
    sentence=_sentence,
    changes=_changes,
    replay=(
        "Swap the suspect shard for a sound one of the same length (the spike goes), against a placebo shard "
        "swapped elsewhere (it stays)."
    ),
    lesson=(
        "A shard that cannot be predicted trains nothing but noise; check the loss per source before a new "
        "source enters the mixture."
    ),
    rivals=("long_tail_tokens",),
    skip_rows=_rows,
    predicts=lambda at: (
        Prediction((Change("replace", (at.window,)),), "cures"),
        Prediction((Change("mask", (at.window,)),), "persists"),
        Prediction((Change("unmask", (at.window,)),), "persists"),
        Prediction((Change("drop-rows", (at.window,)),), "persists"),
        Prediction((Change("move", (at.window,), (at.elsewhere,)),), "follows"),
    ),
    remedy=lambda at: (Change("skip", (at.window,)),),
    doc=__doc__,
)
