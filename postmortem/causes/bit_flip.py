"""Silent data corruption: one parameter changed without an update that could have changed it.

A parameter norm moves violently in one step whose gradient, update and learning rate were ordinary, and the loss
follows in the next. It does not reproduce: a null replay of the same batches from the same checkpoint does not show
it. A replay that does show it rules it out, and so do weights that moved no further than before.

**Smallest fix.** Replace the node, restore the last checkpoint from before.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Seen
from postmortem.causes._remedies import roll_back
from postmortem.diagnosis import Prediction, Remedy


def _sentence(case: Case, seen: Seen) -> str:
    jump = seen.get("weights.unprovoked_jump") or seen.get("weights.nonfinite_unprovoked")
    what = jump.text if jump else f"a parameter seems to have moved by itself near step {case.onset}"
    return f"A parameter changed without an update to change it: {what}."


def _changes(case: Case, seen: Seen) -> tuple[Remedy, ...]:
    return (
        roll_back(case, "resume on another node"),
        Remedy("Take the node out and run a memory test on it.", "one node until it is cleared"),
        Remedy("Skip the batch.", declined="no batch did this"),
    )


CAUSE = Cause(
    slug="bit_flip",
    title="Silent data corruption (bit flip)",
    prior=-3.5,
    weights={
        "weights.unprovoked_jump": 6.0,
        "weights.nonfinite_unprovoked": 4.0,
        "weights.smooth": -4.0,
        "weights.jump": -2.5,
        "weights.nonfinite_first": -2.0,
        "state.resumed": -1.5,
        "moments.reset": -2.0,
        "lr.jump": -2.0,
        "data.no_labels": -3.0,
        "loss.alone": -4.0,
        "token_loss.disagrees": -4.0,
        "data.rare_tokens": -1.0,
        "data.repeat": -2.0,
        "data.baseline_harmless": 1.0,
        "data.baseline_harmful": -2.0,
        "state.baseline_same_step": -1.0,
    },
    sentence=_sentence,
    changes=_changes,
    replay="Null replay from the checkpoint before, nothing changed: the incident does not appear.",
    lesson=(
        "A parameter that moves without an update is hardware: hash the state, keep checkpoints close, replace "
        "the node."
    ),
    predicts=lambda at: (Prediction((), "vanishes"),),
    remedy=lambda at: (),
    doc=__doc__,
)
