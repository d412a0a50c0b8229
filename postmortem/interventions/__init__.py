"""The changes that a replay can make, one file each: `INTERVENTION = TheClass`.

A class overrides the methods in which it acts. The others do nothing, so that several interventions can act together:

    configured    changes the config from which the program is built
    resumed       chooses the parts of the state that a resume of the run restores
    begin         changes the program after it has restored the starting state
    windows       lists batches that are never consumed
    batch         changes a batch before it is consumed
    before_update changes the optimizer after the gradients are computed

`idle` says why it cannot change anything in the replayed steps: a change that does nothing is no failed cure.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from postmortem.change import Change, Window, overlap
from postmortem.discovery import discover
from postmortem.errors import UsageError
from postmortem.program import Batch, Editable, Program, Scalar, State
from postmortem.run.recorded import RecordedRun
from postmortem.text import plain

UNUSED_BATCH_MARGIN = 64  # batches between the last one that the run consumed and the first one that replaces another


@dataclass(frozen=True)
class ReplayContext:
    """What an intervention may read: what the run recorded, the replayed steps [from_step, until), the checkpoints."""

    recorded: RecordedRun
    from_step: int
    until: int
    load: Callable[[int], State]  # the full state of the checkpoint of that step; UsageError if there is none

    @property
    def unused_batch(self) -> int:
        """Index from which on neither the run nor this replay consumes a batch."""
        replay_end = self.recorded.batch_index_at(self.from_step) + self.until - self.from_step
        return max(self.recorded.last_batch_index, replay_end) + UNUSED_BATCH_MARGIN


class Intervention(ABC):
    """Applies the changes of one name to a program while it is driven."""

    name: ClassVar[str]
    usage: ClassVar[str] = ""  # the form of the text after the name, for --help and errors
    batches: ClassVar[bool] = False  # whether a whole number means a batch: 312 is the window 312:313
    summary: ClassVar[str]  # one line, for the list of interventions
    acted: bool = False  # whether it has changed a batch or an update so far

    @abstractmethod
    def __init__(self, change: Change) -> None:
        """Raises UsageError if the values of `change` make no sense."""

    @property
    @abstractmethod
    def text(self) -> str:
        """What it changes, in words: "skip batches [312, 313)"."""

    def idle(self, context: ReplayContext, consumed: Sequence[Window]) -> str:
        """Why it can change nothing in the replayed steps, as far as that is known before they are driven; "" where it
        may. `consumed` are the windows of batches that these steps consume without it."""
        return ""

    def configured(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config from which the program is built."""
        return config

    def resumed(self, parts: tuple[str, ...]) -> tuple[str, ...] | None:
        """The parts of the state that a resume restores, where the run restored only `parts`; None: all parts."""
        return parts

    def begin(self, program: Program, context: ReplayContext) -> None:
        """Called once, after the program has restored the state from which the change acts."""
        return  # most changes leave the program as it is

    def windows(self, context: ReplayContext) -> Sequence[Window]:
        """Windows [first, last) of batches to skip."""
        return ()

    def batch(self, program: Program, context: ReplayContext, batch: Batch) -> Batch:
        """The batch to consume instead of `batch`."""
        return batch

    def before_update(self, context: ReplayContext, step: int, optimizer: Any) -> dict[str, Scalar]:
        """Called when the gradients are ready, before each `step()` of each optimizer. Returns columns of the step's
        row that the change corrects."""
        return {}


def outside(windows: Sequence[Window], consumed: Sequence[Window]) -> str:
    """Why a change of the batches in `windows` changes nothing: none of them is `consumed`; "" where one is."""
    return "" if overlap(windows, consumed) else "no batch of the change is among them"


class BatchEditor(Intervention):
    """Changes the batches of one window, which `_window` holds."""

    _window: Window

    def idle(self, context: ReplayContext, consumed: Sequence[Window]) -> str:
        return outside((self._window,), consumed)


@cache
def intervention_classes() -> dict[str, type[Intervention]]:
    """Name → class, of every intervention file."""
    classes = discover(sys.modules[__name__], "INTERVENTION", type)
    for kind in classes:
        if not issubclass(kind, Intervention):
            raise TypeError(f"{kind.__module__}: INTERVENTION is not an Intervention")
    return {kind.name: kind for kind in classes if issubclass(kind, Intervention)}


def build_intervention(change: Change) -> Intervention:
    """The intervention for `change`. Raises UsageError if its name is unknown or its values make no sense."""
    return _intervention_class(change.name)(change)


def parse_change(text: str) -> Change:
    """The change that a user typed as NAME or NAME=VALUE. Raises UsageError unless an intervention accepts it."""
    kind = _intervention_class(text.partition("=")[0].strip())
    try:
        change = Change.from_text(text, batches=kind.batches)
    except ValueError as error:
        raise UsageError(str(error)) from error
    kind(change)
    return change


def _intervention_class(name: str) -> type[Intervention]:
    classes = intervention_classes()
    if name not in classes:
        raise UsageError(
            f"there is no intervention {plain(name, 40)!r}; the interventions are {', '.join(sorted(classes))}"
        )
    return classes[name]


def model_state(program: Program, text: str) -> Any:
    """The section "model" of the program's state. If it is missing, raises UsageError about the change `text`."""
    state = program.state_dict()
    if "model" not in state:
        raise UsageError(f"{text}: the program's state has no section 'model', see postmortem.program")
    return state["model"]


def as_editable(program: Program, text: str) -> Editable:
    """`program`, if its batches can be edited; otherwise raises UsageError about the change `text`."""
    if not isinstance(program, Editable):
        raise UsageError(f"{text}: the program offers no edited(batch, edit) and labels(batch), see postmortem.program")
    return program
