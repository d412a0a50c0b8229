"""The optimizer's moments, where a resume lost them: taken over after all, or estimated anew."""

from __future__ import annotations

from postmortem.change import Change
from postmortem.interventions import Intervention, Scene, parameters
from postmortem.interventions._values import refused, word
from postmortem.program import Program


class Moments(Intervention):
    """`restored`: every resume of the run takes over the whole state. `estimated:N`: before the first step, N batches
    are looked at with the parameters held fast, so that the moments are those of the gradients there."""

    name = "moments"
    usage = "restored|estimated[:N]"
    about = "restore the moments that a resume left out, or estimate them from the N batches before (20)"

    def __init__(self, change: Change) -> None:
        kind, *count = (word(change, self.usage), *change.values[1:])
        batches = count[0] if count else 20
        few = len(count) <= (kind == "estimated")
        if kind not in ("restored", "estimated") or not few or not isinstance(batches, int) or batches < 1:
            raise refused(change, self.usage)
        self._batches = batches if kind == "estimated" else 0

    @property
    def text(self) -> str:
        return f"moments estimated from {self._batches} batches" if self._batches else "moments restored"

    def resumed(self, parts: tuple[str, ...]) -> tuple[str, ...] | None:
        return parts if self._batches else None

    def begin(self, program: Program, scene: Scene) -> None:
        if not self._batches:
            return
        before, model = program.state_dict(), {"model": parameters(program, self.text)}
        for index in range(max(0, program.position - self._batches), program.position):
            program.step(program.batch(index))
            program.load_state_dict(model)
        program.load_state_dict({name: part for name, part in before.items() if name != "optimizer"})


INTERVENTION = Moments
