"""Every target of a batch is ignored, and the mean over no tokens is 0/0.

The loss is NaN at a step whose batch has no valid label, while the parameters were finite before the update; the
update then writes NaN into every parameter. A positive count of valid labels rules it out.

**Smallest fix.** Divide by max(n, 1) and drop batches without labels.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Seen
from postmortem.causes._remedies import roll_back, skip
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy


def _sentence(case: Case, seen: Seen) -> str:
    none = seen.get("data.no_labels")
    step = none.step if none else case.onset
    then = ", and the update wrote that into the parameters" if "loss.stays_nonfinite" in seen else ""
    return f"The batch of step {step} has no valid label, so its mean loss is 0/0 = NaN{then}."


def _changes(case: Case, seen: Seen) -> tuple[Remedy, ...]:
    return (
        Remedy("Divide the summed loss by max(valid labels, 1).", "none where a label is valid"),
        roll_back(case, "replay with that division"),
        skip(case, case.batch_window(rows=1)),
        Remedy("Lower the learning rate.", declined="the NaN comes from a division, not from a step that is too long"),
    )


CAUSE = Cause(
    slug="empty_labels",
    title="A batch without valid labels",
    prior=-3.0,
    weights={
        "data.no_labels": 6.0,
        "loss.stays_nonfinite": 0.5,
        "loss.nonfinite": 0.5,
        "data.labels_valid": -6.0,
        "loss.spike": -2.0,
        "loss.flat": -1.0,
        "lr.jump": -1.0,
        "grad_norm.nonfinite_first": -3.0,
        "data.baseline_harmless": -1.5,
        "data.baseline_harmful": 1.0,
        "state.baseline_same_step": -1.5,
    },
    sentence=_sentence,
    changes=_changes,
    replay="Unmask the labels of that batch, nothing else: the loss stays finite.",
    lesson="A batch can lose all its labels to masking: divide by max(n, 1) and count valid labels per batch.",
    skip_rows=lambda case, seen: 1,
    predicts=lambda at: (
        Prediction((Change("unmask", (at.window,)),), "finite"),
        Prediction((Change("replace", (at.window,)),), "cures"),
        Prediction((Change("move", (at.window,), (at.elsewhere,)),), "follows"),
    ),
    remedy=lambda at: (Change("skip", (at.window,)),),
    doc=__doc__,
)
