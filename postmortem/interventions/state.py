"""The suspect batches meet the state of another checkpoint: PaLM's question, is it the data or the state?"""

from __future__ import annotations

from postmortem.change import Change
from postmortem.errors import UsageError
from postmortem.interventions import Intervention, Scene
from postmortem.interventions._values import whole
from postmortem.program import Program

TAKEN = ("model", "optimizer")  # the place in the data and in the schedule stays


class OtherState(Intervention):
    """Parameters and optimizer of the checkpoint of step N; data and schedule go on from where the replay starts."""

    name = "state"
    usage = "N"
    about = "start with the parameters and the optimizer of the checkpoint of step N"

    def __init__(self, change: Change) -> None:
        self._step = whole(change, self.usage)

    @property
    def text(self) -> str:
        return f"parameters and optimizer of step {self._step}"

    def begin(self, program: Program, scene: Scene) -> None:
        state = scene.load(self._step)
        if "model" not in state:
            raise UsageError(f"{self.text}: that checkpoint holds no section 'model'")
        program.load_state_dict({name: state[name] for name in TAKEN if name in state})


INTERVENTION = OtherState
