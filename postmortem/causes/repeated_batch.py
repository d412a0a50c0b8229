"""The loader repeats a batch, or resumes at the wrong position.

The same batch hash comes again. The training loss drops while the model memorizes the batch, and jumps up when new data
returns; the evaluation loss stays flat. It is ruled out by hashes that are unique. Epochs with a constant period do not
count as repetition. Where a resume did not restore the loader, the repetition is the resume's (`optimizer_reset`).

**Smallest fix.** Save and restore the loader's state.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy


def _root_cause_sentence(case: Case, observed: Observed) -> str:
    repeat, drop = observed.get("data.repeat"), observed.get("loss.drop")
    evidence = repeat.text if repeat else f"from step {case.onset} on the loader seems to serve earlier batches again"
    memorized = f"; {drop.text} while the model memorized it" if drop else ""
    return f"The loader served one batch again and again: {evidence}{memorized}."


def _remedies(case: Case, observed: Observed) -> tuple[Remedy, ...]:
    return (
        Remedy(
            (
                "Save and restore the loader's position with each checkpoint, and assert that the batch index "
                "advances by one per step."
            ),
            "a few bytes per checkpoint",
        ),
        Remedy("Skip the window.", declined="the batches were sound; they were only served too often"),
    )


CAUSE = Cause(
    slug="repeated_batch",
    title="Repeated batch",
    prior=-3.0,
    weights={
        "data.repeat": 6.0,
        "grad_norm.spike": -1.0,
        "loss.drop": 1.5,
        "grad_norm.drop": 1.0,
        "data.unique": -4.0,
        "lr.jump": -2.0,
        "moments.reset": -2.0,
        "data.new_source": -1.0,
        "data.no_labels": -3.0,
        "loss.stays_nonfinite": -3.0,
        "weights.unprovoked_jump": -3.0,
        "loss.alone": -3.0,
        "token_loss.disagrees": -3.0,
        "data.rare_tokens": -1.0,
        "data.unlikely": -1.0,
        "loss.recurring": -0.5,
        "loss.falls_for_good": -2.0,
        "loss.reduction_changed": -3.0,
        "data.baseline_harmful": -0.5,
        "data.epoch_period": -5.0,
        "state.data_changed": 0.5,
        "state.loader_lost": -8.0,
        "state.not_training": -2.0,
        "state.ranks_differ": -2.0,
    },
    root_cause_sentence=_root_cause_sentence,
    remedies=_remedies,
    proof_text=(
        "Restore the loader's state and replay from the checkpoint before: neither the drop nor the jump appears."
    ),
    lesson="A loader that repeats a batch looks like progress",
    predicts=lambda suspect: (Prediction((Change("distinct"),), "cures"),),
    fix=lambda suspect: (Change("distinct"),),
    doc=__doc__,
)
