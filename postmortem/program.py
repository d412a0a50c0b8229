"""The contract by which anything drives a training: the lab, a replay, a resume test, a live guard.

    build(config) -> Program          a fresh training, before its first update
    program.updates                   updates done = the number of the step that comes next
    program.position                  index of the batch that its loader would hand out next
    program.batch(index) -> Batch     a pure function of config and index: no state is read or written
    program.step(batch) -> Measured   one update; afterwards position = batch.index + 1
    program.state_dict() / load_state_dict(state)

The driver, not the program, decides which batch a step consumes. Step and batch index are two numbers: they part at
the first skip and never meet again. So a plain run and a replay with skip windows are the same loop:

    while program.updates < until:
        measured = program.step(program.batch(next_index(program.position, skip)))

A replay can change more of a program that also offers one of these:

    program.optimizers                what steps its parameters: rates, clipping, betas and moments can be changed
    program.edited(batch, edit)       its batches can be replaced, moved, masked
    program.measure(batch)            loss and gradient without an update, for probes; else a step is taken and undone

A program around somebody else's loop (`postmortem.frameworks`) may also offer:

    program.restore(path), save(folder)   checkpoints in the form that its framework writes
    program.place(updates, position)      where it stands, for states that do not say

State is a nested mapping of named sections ("model", "optimizer", "loader", "rng", …) down to tensors and plain types,
so that it can be written, compared and restored piece by piece. What a loaded state lacks is left as it was built:
`load_state_dict(select(state, ["model", "loader"]))` is a resume that forgets the optimizer.
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
    """What one step consumes. Only its index means something to a driver."""

    @property
    def index(self) -> int:
        """Absolute number of the batch in the program's data order, from 0."""
        ...


@dataclass(frozen=True)
class Measured:
    """What one step measured, keyed by the canonical column names of the run format.

    `metrics` becomes the step's row in metrics/, `batch` its row in batches/. The loss belongs to the parameters
    before the update, norms of parameters and moments to those after it.
    """

    metrics: Mapping[str, Scalar]
    batch: Mapping[str, Any]


@runtime_checkable
class Program(Protocol):
    """A training that can be driven from outside, step by step."""

    @property
    def updates(self) -> int:
        """Steps taken so far, skipped updates included: the number of the next step."""
        ...

    @property
    def position(self) -> int:
        """Index of the batch after the one consumed last; 0 at the start. Part of the state."""
        ...

    def batch(self, index: int) -> Batch:
        """The batch at an absolute index; the same for the same config and index, whatever was driven before."""
        ...

    def step(self, batch: Batch) -> Measured:
        """Train on `batch` once and say what was measured."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on. The caller owns it: later steps do not change it."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Take over what `state` holds; sections and keys that it lacks stay as they are."""
        ...


@dataclass(frozen=True)
class Edit:
    """A change to one batch. `index` is the place it takes in the data order, where that is not its own;
    `without_rows` are samples to leave out, `masked_tokens` ids of which nothing shall count, neither where they are
    the label nor where the label follows them, and `unmask` asks for the labels of a batch in which none counts to
    count again."""

    index: int | None = None
    without_rows: frozenset[int] = frozenset()
    masked_tokens: frozenset[int] = frozenset()
    unmask: bool = False


@runtime_checkable
class Adjustable(Protocol):
    """A program that shows its optimizers."""

    @property
    def optimizers(self) -> Sequence[Any]:
        """The `torch.optim.Optimizer`s whose `step()` makes an update, those of inner wrappers, not the wrappers."""
        ...


@runtime_checkable
class Editable(Protocol):
    """A program whose batches can be changed before they are consumed."""

    def edited(self, batch: Batch, edit: Edit) -> Batch:
        """A copy of `batch` with the edit in it, the facts that its row records included."""
        ...

    def labels(self, batch: Batch) -> Sequence[Sequence[int]]:
        """The label ids that count, sample by sample: its length is the number of rows."""
        ...


@runtime_checkable
class Measurable(Protocol):
    """A program that can look at a batch without training on it."""

    def measure(self, batch: Batch) -> Measured:
        """Loss and `grad_norm` of `batch` in the present state, which stays as it is."""
        ...


@runtime_checkable
class OwnCheckpoints(Protocol):
    """A program whose framework has checkpoints of its own, beside those that hold a `state_dict`."""

    def restore(self, checkpoint: Path) -> Sequence[str]:
        """Begin a training that has taken no step from such a checkpoint; names of the pieces that came back."""
        ...

    def save(self, folder: Path) -> Path:
        """Write one of the present state into `folder`, whole or not at all; its path, which names the step."""
        ...


@runtime_checkable
class Placeable(Protocol):
    """A program whose state may not say where it stands: a loop of one's own keeps its step in a variable."""

    @property
    def placed_sections(self) -> Sequence[str]:
        """Sections of the state that a checkpoint may lack, because `place` says the same."""
        ...

    def place(self, updates: int, position: int) -> None:
        """Called after a checkpoint was restored. What the state did say stays as it is."""
        ...


ProgramFactory: TypeAlias = Callable[[Config], Program]


def measure(program: Program, batch: Batch) -> Measured:
    """Loss and gradient norm of `batch` in the present state, which is as it was afterwards.

    A program that offers no `measure` takes a step and gets its state back: dearer, and the same figures, because the
    loss and the gradient of a step belong to the parameters before its update.
    """
    if isinstance(program, Measurable):
        return program.measure(batch)
    before = program.state_dict()
    try:
        return program.step(batch)
    finally:
        program.load_state_dict(before)


def resolve(entry_point: str) -> ProgramFactory:
    """The factory that "module:attribute" names. Importing it runs its module: ask the user first where it is foreign.

    Raises UsageError where the text has another form, or where module or attribute do not exist or cannot be called.
    """
    module_name, colon, attribute = entry_point.partition(":")
    if not (colon and module_name and attribute):
        raise UsageError(f"program {entry_point!r}: expected module:attribute, as in package.train:build")
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"program {entry_point!r}: no module named {error.name!r} is found from here") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise UsageError(f"program {entry_point!r}: {module_name} has no {attribute!r}")
        found = getattr(found, name)
    if not callable(found):
        raise UsageError(f"program {entry_point!r}: {attribute!r} cannot be called; expected a factory of programs")
    return cast(ProgramFactory, found)


def next_index(position: int, skip: Iterable[Window] = ()) -> int:
    """The first batch index from `position` on that lies in none of the windows [first, last)."""
    for first, last in sorted(skip):
        if first <= position < last:
            position = last
    return position


def select(state: State, parts: Sequence[str]) -> dict[str, Any]:
    """The pieces of `state` that `parts` name, such as "model" or "optimizer.step", in the same nesting.

    Raises UsageError for a piece that the state does not hold.
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
    held = cast(Mapping[str, Any], source) if isinstance(source, Mapping) else {}
    if key not in held:
        there = plain(", ".join(sorted(map(str, held)))) or "nothing"
        raise UsageError(f"the state holds no {plain(part)!r}; there it has {there}")
    return held[key]
