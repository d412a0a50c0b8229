"""A destructive update wrote a NaN or an Inf into a parameter, where it stays forever.

The loss becomes non-finite and stays so. The sure sign is one row earlier: the gradient or the parameters are
non-finite after a step whose loss was still finite. The damage was done in the step in which `nonfinite_count` first
exceeds 0, a norm is first non-finite, or `update_rms` jumps: log them at each step. A hash of the parameters does not
show it: it changes at every step, and has no size. This cause is ruled out by a loss that becomes finite again, and by
a batch without valid labels, which is a simpler explanation.

**Smallest fix.** Revert to the last NaN-free checkpoint, and skip updates whose gradient norm is not finite.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed
from postmortem.causes._remedies import roll_back
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy

_SIGNS = (
    "weights.nonfinite_first",
    "grad_norm.nonfinite_first",
    "numerics.nonfinite_gradient",
    "weights.nonfinite",
    "moments.nonfinite",
)


def _root_cause_sentence(case: Case, observed: Observed) -> str:
    saved = observed.get("state.nonfinite_checkpoint")
    if saved is not None:
        return f"An update before the onset wrote a non-finite value that no batch read until then: {saved.text}."
    seen = [o for slug in _SIGNS if (o := observed.get(slug)) is not None and o.step is not None]
    first = min(seen, key=lambda o: o.step or 0, default=None)  # of one step, the surest sign comes first in _SIGNS
    jump = observed.get("update.before_nonfinite")
    evidence = f": {first.text}" if first else ""
    led = f"; before it, {jump.text}" if jump and first and (jump.step or 0) < (first.step or 0) else ""
    return (
        f"A destructive update at step {first.step if first else case.onset} wrote a non-finite value into the "
        f"parameters, and it never disappears{evidence}{led}."
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
        "weights.changed_between": -2.0,
        "update.before_nonfinite": 1.0,
        "activations.nonfinite": 0.3,
        "moments.nonfinite": 0.3,
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
        "loss.falls_for_good": -3.0,
        "lr.jump": -0.5,
        "weights.nonfinite_unprovoked": 0.5,
        "weights.smooth": -2.0,
        "numerics.scale_drop_first": -1.0,
        "data.baseline_harmless": -1.0,
        "data.baseline_harmful": 1.0,
        "data.epoch_period": -2.0,
        "state.baseline_same_step": -1.0,
        "state.nonfinite_parameters": 1.0,
        "state.not_training": -1.0,
        "state.ranks_differ": -1.0,
    },
    root_cause_sentence=_root_cause_sentence,
    remedies=_remedies,
    proof_text=(
        "Replay from the last NaN-free checkpoint with nonfinite_count and update_rms logged at every step: the first "
        "step that counts a non-finite value, or whose update jumps, did the damage."
    ),
    lesson="A NaN in a parameter never disappears by itself",
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
