"""A destructive update wrote a NaN or an Inf into a parameter, where it stays forever.

The loss becomes non-finite and stays so. The sure sign is one row earlier: the gradient or the parameters are
non-finite after a step whose loss was still finite. The parameters, and so their hash, change violently at that step. A
loss that becomes finite again rules it out, and so does a batch without valid labels, which is a simpler explanation.

**Smallest fix.** Revert to the last NaN-free checkpoint, and skip updates whose gradient norm is not finite.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed
from postmortem.causes._remedies import roll_back
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy


def _root_cause_sentence(case: Case, observed: Observed) -> str:
    saved = observed.get("state.nonfinite_checkpoint")
    if saved is not None:
        return f"An update before the onset wrote a non-finite value that no batch read until then: {saved.text}."
    first = (
        observed.get("weights.nonfinite_first")
        or observed.get("grad_norm.nonfinite_first")
        or observed.get("weights.nonfinite")
    )
    evidence = f": {first.text}" if first else ""
    return (
        f"A destructive update at step {first.step if first else case.onset} wrote a non-finite value into the "
        f"parameters, and it never disappears{evidence}."
    )


def _remedies(case: Case, observed: Observed) -> tuple[Remedy, ...]:
    return (
        Remedy(
            "Skip any update whose gradient norm is not finite.",
            "one comparison per step; a skipped step costs its batch",
        ),
        roll_back(case, "replay with this check"),
        Remedy("Continue from here.", declined="a NaN in a parameter never disappears by itself"),
    )


CAUSE = Cause(
    slug="nan_propagation",
    title="NaN written by a destructive update",
    prior=-2.5,
    weights={
        "loss.never_finite": -2.0,
        "loss.stays_nonfinite": 2.0,
        "grad_norm.nonfinite_first": 2.5,
        "weights.nonfinite_first": 2.5,
        "state.nonfinite_checkpoint": 2.5,
        "weights.nonfinite": 0.3,
        "loss.suspected_nonfinite": 1.0,
        "data.no_labels": -4.0,
        "loss.nonfinite": -4.0,
        "loss.spike": -4.0,
        "loss.flat": -3.0,
        "loss.alone": -5.0,
        "lr.jump": -0.5,
        "weights.nonfinite_unprovoked": 0.5,
        "weights.smooth": -2.0,
        "numerics.scale_drop_first": -1.0,
        "data.baseline_harmless": -1.0,
        "data.baseline_harmful": 1.0,
        "state.baseline_same_step": -1.0,
    },
    root_cause_sentence=_root_cause_sentence,
    remedies=_remedies,
    proof_text=(
        "Replay from the last NaN-free checkpoint with parameters hashed at every step: the first violent change "
        "shows the step."
    ),
    lesson=(
        "Never apply an update whose gradient norm is not finite; write checkpoints often enough to have a NaN-free "
        "state to return to."
    ),
    suspect_batch_count=lambda case, observed: 1,
    predicts=lambda suspect: (
        Prediction((Change("drop-rows", (suspect.window,)),), "cures"),
        Prediction((Change("unmask", (suspect.window,)),), "persists"),
        Prediction((Change("replace", (suspect.window,)),), "cures"),
        Prediction((Change("move", (suspect.window,), (suspect.move_to,)),), "follows"),
    ),
    fix=lambda suspect: (Change("skip", (suspect.window,)),),
    doc=__doc__,
)
