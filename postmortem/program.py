"""The contract of a program: what a training must offer so that lab, replay and resume test can drive it.

    build(config) -> Program          a fresh training, before its first update
    program.updates                   updates done = the number of the next step
    program.position                  index of the next batch of its loader
    program.batch(index) -> Batch     a pure function of config and index: it neither reads nor changes state
    program.step(batch) -> Measured   one update; afterwards position = batch.index + 1
    program.state_dict() / load_state_dict(state)

The driver, not the program, decides which batch a step consumes. Step and batch index are different numbers: they
differ from the first skip on. So a plain run and a replay with skip windows are the same loop:

    while program.updates < until:
        measured = program.step(program.batch(next_index(program.position, skip)))

A replay can change more if the program also offers these:

    program.optimizers                rates, clipping, betas and moments can be changed
    program.edited(batch, edit)       batches can be replaced, moved, masked
    program.measure(batch)            loss and gradient without an update, for probes; otherwise a step is undone

A program around the loop of a framework (`postmortem.frameworks`) may also offer:

    program.restore(path), save(folder)   checkpoints in the framework's own form
    program.place(updates, position)      sets step and batch, for states that do not contain them

State is a nested mapping of named sections ("model", "optimizer", "loader", "rng", …) down to tensors and plain types,
so that it can be written, compared and restored piece by piece. Loading a state leaves all that it lacks unchanged:
`load_state_dict(select(state, ["model", "loader"]))` is a resume that loses the optimizer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

from postmortem.change import Window
from postmortem.errors import UsageError
from postmortem.text import plain

Config: TypeAlias = Mapping[str, Any]
State: TypeAlias = Mapping[str, Any]
Scalar: TypeAlias = "float | int | str | None"


class Batch(Protocol):
    """What one step consumes. A driver uses only its index."""

    @property
    def index(self) -> int:
        """Absolute number of the batch in the program's data order, from 0."""
        ...


@dataclass(frozen=True)
class Measured:
    """What one step measured, keyed by the canonical column names of the run format.

    `metrics` becomes the step's row in metrics/, `batch` its row in batches/. The loss is that of the parameters before
    the update, norms of parameters and moments are those after it.
    """

    metrics: Mapping[str, Scalar]
    batch: Mapping[str, Any]


@runtime_checkable
class Program(Protocol):
    """A training that can be driven step by step."""

    @property
    def updates(self) -> int:
        """Steps taken so far, skipped updates included: the number of the next step."""
        ...

    @property
    def position(self) -> int:
        """Index of the batch after the one consumed last; 0 at the start. Part of the state."""
        ...

    def batch(self, index: int) -> Batch:
        """The batch at an absolute index; it depends only on config and index."""
        ...

    def step(self, batch: Batch) -> Measured:
        """Do one update on `batch`; return what was measured."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on. It is a copy: later steps do not change it."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Load what `state` contains; sections and keys that it lacks stay as they are."""
        ...


@dataclass(frozen=True)
class Edit:
    """A change to one batch. `index` is its new place in the data order, None keeps it; `without_rows` are the samples
    to leave out; `masked_tokens` are ids that must not count, neither as the label nor as the input before a label;
    `unmask` lets labels count again in a batch in which no label counts."""

    index: int | None = None
    without_rows: frozenset[int] = frozenset()
    masked_tokens: frozenset[int] = frozenset()
    unmask: bool = False


@runtime_checkable
class Adjustable(Protocol):
    """A program that offers its optimizers."""

    @property
    def optimizers(self) -> Sequence[Any]:
        """The `torch.optim.Optimizer`s whose `step()` makes an update: the inner optimizers, not wrappers around
        them."""
        ...


@runtime_checkable
class Editable(Protocol):
    """A program whose batches can be changed before they are consumed."""

    def edited(self, batch: Batch, edit: Edit) -> Batch:
        """A copy of `batch` with the edit applied; the facts for its row change with it."""
        ...

    def labels(self, batch: Batch) -> Sequence[Sequence[int]]:
        """The label ids that count, one sequence per sample: its length is the number of rows."""
        ...


@runtime_checkable
class Measurable(Protocol):
    """A program that can measure a batch without training on it."""

    def measure(self, batch: Batch) -> Measured:
        """Loss and `grad_norm` of `batch` in the present state, which does not change."""
        ...


@runtime_checkable
class FrameworkCheckpoints(Protocol):
    """A program whose framework writes its own checkpoints, besides those of a `state_dict`."""

    def restore(self, checkpoint: Path) -> Sequence[str]:
        """Start a training that has taken no step yet from such a checkpoint; the names of the restored pieces."""
        ...

    def save(self, folder: Path) -> Path:
        """Write such a checkpoint of the present state into `folder`, completely or not at all; its path names the
        step."""
        ...


@runtime_checkable
class Placeable(Protocol):
    """A program whose state may lack its step and batch: your own loop may keep them in variables."""

    @property
    def placed_sections(self) -> Sequence[str]:
        """Sections of the state that a checkpoint may lack, because `place` replaces them."""
        ...

    def place(self, updates: int, position: int) -> None:
        """Called after a checkpoint was restored, to set what the state did not contain."""
        ...


ProgramFactory: TypeAlias = Callable[[Config], Program]


def measure(program: Program, batch: Batch) -> Measured:
    """Loss and gradient norm of `batch` in the present state, which is the same afterwards.

    A program without `measure` takes a step and gets its state back. This costs more and gives the same numbers,
    because the loss and the gradient of a step are those of the parameters before its update.
    """
    if isinstance(program, Measurable):
        return program.measure(batch)
    before = program.state_dict()
    try:
        return program.step(batch)
    finally:
        program.load_state_dict(before)


def resolve(program_name: str) -> ProgramFactory:
    """Import the factory that "module:attribute" names. This runs its module: ask the user first if it is foreign.

    Raises UsageError if the text has another form, or if module or attribute do not exist or cannot be called.
    """
    module_name, colon, attribute = program_name.partition(":")
    if not (colon and module_name and attribute):
        raise UsageError(f"program {program_name!r}: expected module:attribute, as in package.train:build")
    try:
        target: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"program {program_name!r}: no module named {error.name!r} is found from here") from error
    for name in attribute.split("."):
        if not hasattr(target, name):
            raise UsageError(f"program {program_name!r}: {module_name} has no {attribute!r}")
        target = getattr(target, name)
    if not callable(target):
        raise UsageError(f"program {program_name!r}: {attribute!r} cannot be called; expected a factory of programs")
    return cast(ProgramFactory, target)


def next_index(position: int, skip: Iterable[Window] = ()) -> int:
    """The first batch index from `position` on that is in none of the windows [first, last)."""
    for first, last in sorted(skip):
        if first <= position < last:
            position = last
    return position


def select(state: State, parts: Sequence[str]) -> dict[str, Any]:
    """The pieces of `state` that `parts` name, such as "model" or "optimizer.step", in the same nesting.

    Raises UsageError for a piece that is not in the state.
    """
    chosen: dict[str, Any] = {}
    for part in parts:
        source: Any = state
        target = chosen
        *above, last = part.split(".")
        for key in above:
            source = _piece(source, key, part)
            target = target.setdefault(key, {})
        target[last] = _piece(source, last, part)
    return chosen


def _piece(source: Any, key: str, part: str) -> Any:
    pieces = cast(Mapping[str, Any], source) if isinstance(source, Mapping) else {}
    if key not in pieces:
        names = plain(", ".join(sorted(map(str, pieces)))) or "nothing"
        raise UsageError(f"the state has no {plain(part)!r}; at that place it has {names}")
    return pieces[key]
