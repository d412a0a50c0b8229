"""Restores the labels of a batch in which all labels are ignored, so that its mean loss is no longer 0/0."""

from __future__ import annotations

from postmortem.change import Change, format_window
from postmortem.interventions import BatchEditor, ReplayContext, as_editable
from postmortem.interventions._values import window
from postmortem.program import Batch, Edit, Program


class Unmask(BatchEditor):
    """In each batch of [A, B) without a counted label, the labels count again. One label would be enough to avoid NaN,
    but the mean over a single token is so noisy that it can look like a spike."""

    name = "unmask"
    usage = "A:B"
    batches = True
    summary = "unmask the labels of those batches in [A, B) where all labels are masked"

    def __init__(self, change: Change) -> None:
        self._window = window(change, self.usage)

    @property
    def text(self) -> str:
        return f"unmask the labels of batches {format_window(self._window)}, where no label counts"

    def batch(self, program: Program, context: ReplayContext, batch: Batch) -> Batch:
        if not self._window[0] <= batch.index < self._window[1]:
            return batch
        editable = as_editable(program, self.text)
        counts = any(len(row) for row in editable.labels(batch))
        return batch if counts else editable.edited(batch, Edit(unmask=True))


INTERVENTION = Unmask
