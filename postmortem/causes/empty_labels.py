"""Every target of a batch is ignored, so that its mean loss is 0/0.

The loss is NaN at a step whose batch has no valid label, while the parameters before the update were finite. The
update then writes NaN into every parameter. A positive count of valid labels rules it out.

**Smallest fix.** Divide by max(n, 1), and drop batches without valid labels.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed
from postmortem.causes._remedies import roll_back, skip
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy


def _root_cause_sentence(case: Case, observed: Observed) -> str:
    no_labels = observed.get("data.no_labels")
    step = no_labels.step if no_labels else case.onset
    damage = ", and the update wrote the NaN into the parameters" if "loss.stays_nonfinite" in observed else ""
    return f"The batch of step {step} has no valid label, so its mean loss is 0/0 = NaN{damage}."


def _remedies(case: Case, observed: Observed) -> tuple[Remedy, ...]:
    return (
        Remedy("Divide the summed loss by max(valid labels, 1).", "none for batches with a valid label"),
        roll_back(case, "replay with this division", lower_rate=False),
        skip(case, case.batch_window(rows=1)),
        Remedy("Lower the learning rate.", declined="the NaN comes from a division, not from too large an update"),
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
        "loss.falls_for_good": -2.0,
        "loss.reduction_changed": -2.0,
        "lr.jump": -1.0,
        "grad_norm.nonfinite_first": -3.0,
        "data.baseline_harmless": -1.5,
        "data.baseline_harmful": 1.0,
        "data.epoch_period": -2.0,
        "state.baseline_same_step": -1.5,
        "state.data_changed": 0.5,
        "state.not_training": -2.0,
        "state.ranks_differ": -2.0,
    },
    root_cause_sentence=_root_cause_sentence,
    remedies=_remedies,
    proof_text="Unmask the labels of that batch and change nothing else: the loss stays finite.",
    lesson="Masking can remove all labels of a batch, whose mean loss is then 0/0",
    suspect_batch_count=lambda case, observed: 1,
    predicts=lambda suspect: (
        Prediction((Change("unmask", (suspect.window,)),), "finite"),
        Prediction((Change("replace", (suspect.window,)),), "cures"),
        Prediction((Change("move", (suspect.window,), (suspect.move_to,)),), "follows"),
    ),
    fix=lambda suspect: (Change("skip", (suspect.window,)),),
    doc=__doc__,
)
