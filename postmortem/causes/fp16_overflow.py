"""A magnitude exceeds 65,504, the largest number of half precision.

The loss scale is halved first, gradients become infinite, and steps are skipped; activations near 65,504 show where.
It is ruled out by bf16 or fp32, and by a loss scale that does not fall.

**Smallest fix.** Train in bf16; else keep the layer that overflows in fp32, or repair the loss scaling.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy


def _root_cause_sentence(case: Case, observed: Observed) -> str:
    scale = observed.get("numerics.scale_drop_first") or observed.get("numerics.scale_drop")
    skipped, reach = observed.get("numerics.skipped"), observed.get("activations.half_range")
    parts = [o.text for o in (scale, skipped, reach) if o]
    return f"Half precision overflowed at step {case.onset}" + (": " + "; ".join(parts) if parts else "") + "."


def _remedies(case: Case, observed: Observed) -> tuple[Remedy, ...]:
    return (
        Remedy(
            "Train in bf16.",
            "three bits less of mantissa; no loss scaling needed",
            done=case.response.left_half_precision(),
        ),
        Remedy(
            "Keep the overflowing layer in fp32 and the rest in fp16.", "that layer's share of time and memory doubles"
        ),
        Remedy("Skip the batch.", declined="the next large activation will overflow again"),
    )


CAUSE = Cause(
    slug="fp16_overflow",
    title="fp16 overflow",
    prior=-3.0,
    weights={
        "numerics.scale_drop_first": 3.5,
        "numerics.scale_drop": 1.5,
        "numerics.skipped": 2.0,
        "numerics.half": 1.5,
        "numerics.nonfinite_gradient": 0.5,
        "activations.half_range": 2.0,
        "grad_norm.nonfinite_first": 0.5,
        "numerics.wide_range": -6.0,
        "numerics.scale_flat": -3.0,
        "data.no_labels": -3.0,
        "loss.alone": -3.0,
        "loss.falls_for_good": -2.0,
        "loss.reduction_changed": -3.0,
        "data.baseline_harmless": 0.5,
        "data.epoch_period": -2.0,
        "state.baseline_same_step": 0.5,
        "state.half_precision": 1.5,
        "state.ranks_differ": -1.0,
    },
    root_cause_sentence=_root_cause_sentence,
    remedies=_remedies,
    proof_text="Replay the same batches from the same checkpoint in fp32: no overflow, no skipped step.",
    lesson="fp16 ends at 65,504, and what is larger is infinite",
    predicts=lambda suspect: (
        Prediction((Change("precision", values=("fp32",)),), "cures"),
        Prediction((Change("replace", (suspect.window,)),), "persists"),
    ),
    fix=lambda suspect: (Change("precision", values=("fp32",)),),
    doc=__doc__,
)
