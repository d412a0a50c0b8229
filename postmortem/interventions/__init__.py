"""The changes that a replay can make, one file each: `INTERVENTION = TheClass`.

A class overrides the moments at which it acts. Everything else passes it by, so that several can act together:

    configured    the config, before the program is built of it
    resumed       which pieces of state a resume of the run takes over
    begin         the program, once it holds the state to start from
    windows       batches that are never consumed
    batch         the batch, before it is consumed
    before_update the optimizer, once the gradient is there
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from postmortem.change import Change, Window
from postmortem.discovery import discover
from postmortem.errors import UsageError
from postmortem.program import Batch, Editable, Program, Scalar, State
from postmortem.run.recorded import RecordedRun
from postmortem.text import plain

FRESH = 64  # batches between the last one that the run consumed and the first that stands in for another


@dataclass(frozen=True)
class Scene:
    """What an intervention may look at: what the run recorded, its steps [from_step, until), and its checkpoints."""

    recorded: RecordedRun
    from_step: int
    until: int
    load: Callable[[int], State]  # the full state of a checkpoint of that step; UsageError where there is none

    @property
    def unused_batch(self) -> int:
        """Index of the first of those batches that the run never consumed and this replay will not."""
        driven = self.recorded.index_at(self.from_step) + self.until - self.from_step
        return max(self.recorded.last_index, driven) + FRESH


class Intervention(ABC):
    """What applies the changes of one name to a program that is driven."""

    name: ClassVar[str]
    usage: ClassVar[str] = ""  # the form of what follows the name, for --help and errors
    batches: ClassVar[bool] = False  # a whole number in it is a batch: 312 is the window 312:313
    about: ClassVar[str]  # one line

    @abstractmethod
    def __init__(self, change: Change) -> None:
        """Raises UsageError for a change that cannot be meant."""

    @property
    @abstractmethod
    def text(self) -> str:
        """What is changed, in words: "skip batches [312, 313)"."""

    def configured(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config that the program is built of."""
        return config

    def resumed(self, parts: tuple[str, ...]) -> tuple[str, ...] | None:
        """The pieces of state that a resume takes over, which left out some of them in the run; None: all."""
        return parts

    def begin(self, program: Program, scene: Scene) -> None:
        """Called once the program holds the state to start from."""
        return None  # most changes leave it as it is

    def windows(self, scene: Scene) -> Sequence[Window]:
        """Windows [first, last) of batches to skip."""
        return ()

    def batch(self, program: Program, scene: Scene, batch: Batch) -> Batch:
        """The batch to consume instead of `batch`."""
        return batch

    def before_update(self, scene: Scene, step: int, optimizer: Any) -> dict[str, Scalar]:
        """Called with the gradients in place, before each `step()` of each optimizer; columns of the row to correct."""
        return {}


@cache
def interventions() -> dict[str, type[Intervention]]:
    """Name → intervention, of every file there is."""
    found = discover(sys.modules[__name__], "INTERVENTION", type)
    for one in found:
        if not issubclass(one, Intervention):
            raise TypeError(f"{one.__module__}: INTERVENTION is no Intervention")
    return {one.name: one for one in found if issubclass(one, Intervention)}


def make(change: Change) -> Intervention:
    """The intervention that `change` names. Raises UsageError where there is none, or its values cannot be meant."""
    return _known(change.name)(change)


def parse_change(text: str) -> Change:
    """NAME or NAME=VALUE as people type it, checked by making it. Raises UsageError."""
    known = _known(text.partition("=")[0].strip())
    try:
        change = Change.from_text(text, batches=known.batches)
    except ValueError as error:
        raise UsageError(str(error)) from error
    known(change)
    return change


def _known(name: str) -> type[Intervention]:
    known = interventions()
    if name not in known:
        raise UsageError(f"no intervention is called {plain(name, 40)!r}; there are {', '.join(sorted(known))}")
    return known[name]


def parameters(program: Program, what: str) -> Any:
    """The section "model" of the program's state. Raises UsageError where it has none."""
    state = program.state_dict()
    if "model" not in state:
        raise UsageError(f"{what}: the program's state has no section 'model', see postmortem.program")
    return state["model"]


def editable(program: Program, what: str) -> Editable:
    """`program` as one whose batches can be changed. Raises UsageError where it offers no `edited`."""
    if not isinstance(program, Editable):
        raise UsageError(f"{what}: the program offers no edited(batch, edit) and labels(batch), see postmortem.program")
    return program
