"""Starts with the state of another checkpoint. As PaLM asked: is it the data or the state?"""

from __future__ import annotations

from collections.abc import Sequence

from postmortem.change import Change, Window
from postmortem.errors import UsageError
from postmortem.interventions import Intervention, ReplayContext
from postmortem.interventions._values import whole
from postmortem.program import Program

SECTIONS = ("model", "optimizer")  # the position in the data and in the schedule stays


class OtherState(Intervention):
    """Loads parameters and optimizer of the checkpoint of step N; data and schedule continue as they are."""

    name = "state"
    usage = "N"
    summary = "start with the parameters and the optimizer of the checkpoint of step N"

    def __init__(self, change: Change) -> None:
        self._step = whole(change, self.usage)

    @property
    def text(self) -> str:
        return f"parameters and optimizer of step {self._step}"

    def idle(self, context: ReplayContext, consumed: Sequence[Window]) -> str:
        same = [c for c in context.recorded.run.checkpoints if c.step == self._step]
        return "the replay starts with that state" if self._step == context.from_step and len(same) <= 1 else ""

    def begin(self, program: Program, context: ReplayContext) -> None:
        state = context.load(self._step)
        if "model" not in state:
            raise UsageError(f"{self.text}: that checkpoint has no section 'model'")
        program.load_state_dict({name: state[name] for name in SECTIONS if name in state})


INTERVENTION = OtherState
