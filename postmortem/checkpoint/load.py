"""Reads a checkpoint, in any number of processes, whatever the number that saved it. Nothing in it is trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor
from torch.distributed.tensor import DTensor

from postmortem.checkpoint import encoding, inspection, manifest
from postmortem.checkpoint._dcp import Shards
from postmortem.checkpoint.document import read_state_document
from postmortem.errors import UnreadableInput
from postmortem.program import select
from postmortem.text import plain

if TYPE_CHECKING:
    from postmortem.checkpoint.state import Stateful


@dataclass(frozen=True)
class _StoredTensor:
    """A tensor in the DCP files."""

    name: str
    numpy: bool = False


def load_checkpoint(path: str | Path, *, into: Stateful | None = None) -> dict[str, Any]:
    """The state in a checkpoint directory, complete and on the CPU, for any number of ranks that saved it. What belongs
    to one rank (generators, a loader's position) is that of rank 0. A directory of plain DCP is read as well.

    `into` is an object that the state is loaded into.

    Raises:
        UnreadableInput: it is damaged, cut short, or holds something that no checkpoint needs; nothing of it was run.
    """
    folder = Path(path)
    inspection.require_sound(folder, allow_nonfinite=True)  # to look at it is no resume
    state = read_state(folder, rank=0)
    if into is not None:
        into.load_state_dict(state)
    return state


def read_state(
    folder: Path, *, rank: int, parts: Sequence[str] | None = None, like: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The state that `rank` gets from a checkpoint that passed `inspection.require_sound`: the `parts` ("model",
    "optimizer.step"), or all.

    A rank that did not save gets rank 0's state without the generators: two ranks must not draw the same numbers.
    Tensors are read directly into the DTensors of `like`, a state of the same nesting, if it has them.

    Raises:
        UnreadableInput: a file is missing or damaged.
        UsageError: a part that is not in the state.
    """
    shards = Shards(folder)
    state = _document(folder, rank) if (folder / manifest.NAME).exists() else _plain_dcp_state(shards.paths())
    if parts is not None:
        state = select(state, parts)
    sharded = _Sharded(like or {})
    targets: dict[str, Any] = {}

    def add_target(path: tuple[str, ...], stored: _StoredTensor) -> _StoredTensor:
        targets[stored.name] = shards.empty(stored.name, sharded.template_for(path))
        return stored

    _walk(state, add_target)
    shards.read(targets)
    return _walk(state, lambda _, stored: targets[stored.name].numpy() if stored.numpy else targets[stored.name])


def _document(folder: Path, rank: int) -> dict[str, Any]:
    own_file = folder / f"state-{rank}.json"
    file = own_file if own_file.exists() else folder / "state-0.json"
    where = plain(file, 1000)
    try:
        state = encoding.decode(read_state_document(file, where), _StoredTensor)
    except RecursionError as error:
        raise UnreadableInput(f"damaged ({plain(error, 80)}).", file=where) from error
    if not isinstance(state, dict):
        raise UnreadableInput("damaged: no sections.", file=where)
    sections = cast(dict[str, Any], state)
    return sections if file == own_file else {name: value for name, value in sections.items() if name != "rng"}


def _plain_dcp_state(paths: Mapping[str, Sequence[str | int]]) -> dict[str, Any]:
    """The nested state of a plain DCP directory, before its entries are read. Indices of lists stay keys."""
    state: dict[str, Any] = {}
    for name, path in paths.items():
        target = state
        for key in path[:-1]:
            target = target.setdefault(str(key), {})
        target[str(path[-1])] = _StoredTensor(name)
    return state


class _Sharded:
    """The DTensors of a state, which show how tensors are to be sharded."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._by_path: dict[tuple[str, ...], DTensor] = {}
        self._by_name: dict[str, DTensor] = {}

        def note(path: tuple[str, ...], tensor: DTensor) -> DTensor:
            self._by_path[path] = tensor
            self._by_name.setdefault(path[-1], tensor)
            return tensor

        _walk(state, note, DTensor)

    def template_for(self, path: tuple[str, ...]) -> Tensor | None:
        """The DTensor at `path`, or of the parameter that its parent is named after, as for a moment."""
        return self._by_path[path] if path in self._by_path else self._by_name.get(path[-2] if len(path) > 1 else "")


def _walk(
    value: Any, change: Callable[[tuple[str, ...], Any], Any], kind: type = _StoredTensor, path: tuple[str, ...] = ()
) -> Any:
    """`value` with `change` applied to every instance of `kind` in it."""
    if isinstance(value, kind):
        return change(path, value)
    if isinstance(value, dict):
        entries = cast(dict[Any, Any], value)
        changed = {key: _walk(inner, change, kind, (*path, str(key))) for key, inner in entries.items()}
        return type(value)(changed) if type(value) is not dict else changed
    if type(value) in (list, tuple):
        return type(value)(_walk(inner, change, kind, (*path, str(i))) for i, inner in enumerate(value))
    return value
