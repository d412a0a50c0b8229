"""Half precision met a magnitude beyond 65,504.

The loss scale is halved first, gradients turn infinite, steps are skipped; activations near 65,504 show where. It
is ruled out by bf16 or fp32, and by a loss scale that holds.

**Smallest fix.** bf16; else an fp32 island around the layer that overflows, or sound loss scaling.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Seen
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy


def _sentence(case: Case, seen: Seen) -> str:
    scale = seen.get("numerics.scale_drop_first") or seen.get("numerics.scale_drop")
    skipped, reach = seen.get("numerics.skipped"), seen.get("activations.half_range")
    parts = [o.text for o in (scale, skipped, reach) if o]
    return f"Half precision overflowed at step {case.onset}" + (": " + "; ".join(parts) if parts else "") + "."


def _changes(case: Case, seen: Seen) -> tuple[Remedy, ...]:
    return (
        Remedy("Train in bf16.", "three bits less of mantissa; no loss scaling needed"),
        Remedy(
            "Keep the overflowing layer in fp32 and the rest in fp16.", "that layer's share of time and memory doubles"
        ),
        Remedy("Skip the batch.", declined="the next large activation overflows again"),
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
        "data.baseline_harmless": 0.5,
        "state.baseline_same_step": 0.5,
    },
    sentence=_sentence,
    changes=_changes,
    replay="Drive the same batches from the same checkpoint in fp32: no overflow, no skipped step.",
    lesson=(
        "fp16 ends at 65,504: train in bf16, or log loss scale and activation maxima and act on the first run "
        "of halvings."
    ),
    predicts=lambda at: (
        Prediction((Change("precision", values=("fp32",)),), "cures"),
        Prediction((Change("replace", (at.window,)),), "persists"),
    ),
    remedy=lambda at: (Change("precision", values=("fp32",)),),
    doc=__doc__,
)
