"""Repairs the optimizer's moments that a resume lost: restores them after all, or estimates them."""

from __future__ import annotations

from collections.abc import Sequence

from postmortem.change import Change, Window
from postmortem.interventions import Intervention, ReplayContext, model_state
from postmortem.interventions._values import refused, word
from postmortem.program import Program


class Moments(Intervention):
    """`restored`: every resume of the run restores the whole state. `estimated:N`: before the first step, the optimizer
    steps on the N batches before it while the parameters are kept, so that its moments follow their gradients."""

    name = "moments"
    usage = "restored|estimated[:N]"
    summary = "restore the moments that a resume left out, or estimate them from the N batches before (default N: 20)"

    def __init__(self, change: Change) -> None:
        kind, *count = (word(change, self.usage), *change.values[1:])
        batches = count[0] if count else 20
        count_fits = len(count) <= (kind == "estimated")
        if kind not in ("restored", "estimated") or not count_fits or not isinstance(batches, int) or batches < 1:
            raise refused(change, self.usage)
        self._batches = batches if kind == "estimated" else 0

    @property
    def text(self) -> str:
        return f"moments estimated from {self._batches} batches" if self._batches else "moments restored"

    def idle(self, context: ReplayContext, consumed: Sequence[Window]) -> str:
        if self._batches:
            return "" if context.recorded.batch_index_at(context.from_step) else "there is no batch before the first"
        steps = range(context.from_step, context.until)
        lost = any(resume.step in steps for resume in context.recorded.resumes)
        return "" if lost else "no resume in these steps left out a part of the state"

    def resumed(self, parts: tuple[str, ...]) -> tuple[str, ...] | None:
        return parts if self._batches else None

    def begin(self, program: Program, context: ReplayContext) -> None:
        if not self._batches:
            return
        before, model = program.state_dict(), {"model": model_state(program, self.text)}
        for index in range(max(0, program.position - self._batches), program.position):
            program.step(program.batch(index))
            program.load_state_dict(model)
        program.load_state_dict({name: part for name, part in before.items() if name != "optimizer"})


INTERVENTION = Moments
