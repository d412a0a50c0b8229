"""The learning rate is beyond what the loss surface bears here (edge of stability).

Incidents recur and are not tied to a batch: the same batch is harmless elsewhere. Often near the end of warmup,
where lr is highest; gradients stay up after the spike and units may die. A single incident that follows one batch
rules it out. From the panels alone it cannot be told from a stale second moment (`stale_second_moment`): a replay
with lower β2 can.

**Smallest fix.** A lower peak lr, or a longer warmup.
"""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Seen
from postmortem.causes._remedies import lower_clip
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy
from postmortem.text import number


def _sentence(case: Case, seen: Seen) -> str:
    recurring, lr = seen.get("loss.recurring"), case.level("lr")
    at = f" of about {number(lr)}" if lr else ""
    again = f": {recurring.text}, not tied to one batch" if recurring else ""
    return f"The learning rate{at} is too high for this stage of the training{again}."


def _changes(case: Case, seen: Seen) -> tuple[Remedy, ...]:
    lr = case.level("lr")
    again = "the incidents recur on other batches" if "loss.recurring" in seen else "no batch stands out"
    to = f" from {number(lr)} to {number(lr / 2)}" if lr else ""
    return (
        Remedy(
            f"Halve the peak learning rate{to}, or double the warmup.", "slower progress per step while it was stable"
        ),
        lower_clip(case),
        Remedy("Skip the batches.", declined=again),
    )


CAUSE = Cause(
    slug="lr_too_high",
    title="Learning rate too high",
    prior=-2.5,
    weights={
        "lr.extreme": 2.0,
        "loss.diverges": 1.5,
        "loss.recurring": 2.5,
        "grad_norm.stays_up": 1.0,
        "lr.near_peak": 1.0,
        "update.large": 0.3,
        "dead_units.moved": 1.0,
        "data.same_batch_harmless": 1.0,
        "loss.stays_up": 0.7,
        "activations.moved": 0.3,
        "token_loss.whole": 0.5,
        "moments.stale": 0.5,
        "weights.jump": 0.5,
        "lr.jump": -3.0,
        "data.rare_tokens": -1.5,
        "data.new_source": -2.5,
        "data.no_labels": -4.0,
        "data.repeat": -3.0,
        "moments.reset": -3.0,
        "loss.alone": -4.0,
        "token_loss.disagrees": -4.0,
        "loss.one_row": -1.5,
        "weights.unprovoked_jump": -3.0,
        "token_loss.tail": -0.5,
        "numerics.scale_drop_first": -1.0,
        "data.baseline_harmless": 1.0,
        "data.baseline_harmful": -1.0,
        "state.baseline_same_step": 0.5,
    },
    sentence=_sentence,
    changes=_changes,
    replay="Halve the learning rate, same data: the spikes move or vanish with it, and do not stay with the batch.",
    lesson="Spikes that recur on different batches are the learning rate's: lower the peak or lengthen the warmup.",
    rivals=("stale_second_moment",),
    predicts=lambda at: (
        Prediction(tuple(Change("lr-scale", values=(factor,)) for factor in (0.5, 0.1, 0.02)), "cures", early=True),
        Prediction((Change("lr-smooth", values=(at.jump,)),), "persists"),
        Prediction((Change("moments", values=("restored",)),), "persists"),
        Prediction((Change("replace", (at.window,)),), "persists"),
        Prediction((Change("distinct"),), "persists"),
    ),
    remedy=lambda at: (Change("lr-scale", values=(0.5,)),),
    doc=__doc__,
)
