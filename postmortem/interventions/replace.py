"""Replaces suspect batches with ordinary ones; every other batch keeps its step."""

from __future__ import annotations

from collections.abc import Sequence

from postmortem.change import Change, Window, format_window
from postmortem.interventions import Intervention, ReplayContext, as_editable, outside
from postmortem.interventions._values import numbers
from postmortem.program import Batch, Edit, Program


class Replace(Intervention):
    """Batches [A, B) get the content of the batches from C on; by default of batches that the run never consumed,
    because a batch that it already consumed would be a repetition."""

    name = "replace"
    usage = "A:B[@C]"
    batches = True
    summary = "consume the batches from C on instead of [A, B)"

    def __init__(self, change: Change) -> None:
        sources = numbers(change, self.usage, windows=1, least=0)
        ((self._first, self._last),) = change.windows
        self._source = sources[0] if sources else None

    @property
    def text(self) -> str:
        source = "others" if self._source is None else f"those from {self._source} on"
        return f"replace batches {format_window((self._first, self._last))} by {source}"

    def idle(self, context: ReplayContext, consumed: Sequence[Window]) -> str:
        if self._source == self._first:
            return "they are the same batches"
        return outside(((self._first, self._last),), consumed)

    def batch(self, program: Program, context: ReplayContext, batch: Batch) -> Batch:
        if not self._first <= batch.index < self._last:
            return batch
        start = context.unused_batch if self._source is None else self._source
        content = program.batch(start + batch.index - self._first)
        return as_editable(program, self.text).edited(content, Edit(index=batch.index))


INTERVENTION = Replace
