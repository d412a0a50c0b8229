"""A destructive update wrote a NaN or an Inf into a parameter, and it never leaves.

The loss goes non-finite and stays so. The sure sign is one row earlier: the gradient or the parameters are non-
finite after a step whose loss was still finite. The parameter hash changes violently at that step. A loss that
becomes finite again rules it out, and so does a batch without valid labels, which has a simpler explanation.

**Smallest fix.** Revert to the last NaN-free checkpoint, and skip updates whose gradient norm is not finite.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Seen
from postmortem.causes._remedies import roll_back
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy


def _sentence(case: Case, seen: Seen) -> str:
    first = (
        seen.get("weights.nonfinite_first") or seen.get("grad_norm.nonfinite_first") or seen.get("weights.nonfinite")
    )
    how = f": {first.text}" if first else ""
    return (
        f"A destructive update at step {first.step if first else case.onset} wrote a non-finite value into the "
        f"parameters, and it propagates for ever{how}."
    )


def _changes(case: Case, seen: Seen) -> tuple[Remedy, ...]:
    return (
        Remedy(
            "Skip any update whose gradient norm is not finite.",
            "one comparison a step; a skipped step costs its batch",
        ),
        roll_back(case, "replay with that check"),
        Remedy("Go on from here.", declined="a NaN in a parameter never leaves by itself"),
    )


CAUSE = Cause(
    slug="nan_propagation",
    title="A destructive update wrote a NaN that propagates",
    prior=-2.5,
    weights={
        "loss.never_finite": -2.0,
        "loss.stays_nonfinite": 2.0,
        "grad_norm.nonfinite_first": 2.5,
        "weights.nonfinite_first": 2.5,
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
    sentence=_sentence,
    changes=_changes,
    replay=(
        "Replay from the last NaN-free checkpoint with parameters hashed at every step: the first violent "
        "change is the step."
    ),
    lesson=(
        "Never apply an update whose gradient norm is not finite; checkpoint often enough to have a NaN-free "
        "state to return to."
    ),
    skip_rows=lambda case, seen: 1,
    predicts=lambda at: (
        Prediction((Change("drop-rows", (at.window,)),), "cures"),
        Prediction((Change("unmask", (at.window,)),), "persists"),
        Prediction((Change("replace", (at.window,)),), "cures"),
        Prediction((Change("move", (at.window,), (at.elsewhere,)),), "follows"),
    ),
    remedy=lambda at: (Change("skip", (at.window,)),),
    doc=__doc__,
)
