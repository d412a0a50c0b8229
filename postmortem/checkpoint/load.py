"""Reading a checkpoint back, in as many processes as there are now, however many saved it. Nothing in it is trusted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor
from torch.distributed.tensor import DTensor

from postmortem.checkpoint import encoding, inspection, manifest
from postmortem.checkpoint._dcp import Shards
from postmortem.errors import UnreadableInput
from postmortem.program import select
from postmortem.text import plain

if TYPE_CHECKING:
    from postmortem.checkpoint.state import Stateful


@dataclass(frozen=True)
class _Stored:
    """A tensor that lies in the DCP files."""

    name: str
    numpy: bool = False


def load_checkpoint(path: str | Path, *, into: Stateful | None = None) -> dict[str, Any]:
    """The state in a checkpoint directory, whole and on the CPU, whatever number of ranks saved it; what belongs to
    one rank (generators, a loader's position) is rank 0's. A directory of plain DCP is read as well.

    `into` takes the state over, if it is given.

    Raises:
        UnreadableInput: it is damaged, cut short, or holds what no checkpoint needs; nothing of it was run.
    """
    folder = Path(path)
    inspection.check(folder)
    state = read_state(folder, rank=0)
    if into is not None:
        into.load_state_dict(state)
    return state


def read_state(
    folder: Path, *, rank: int, parts: Sequence[str] | None = None, like: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The state that `rank` takes over from a checkpoint that passed `inspection.check`; the pieces of it that `parts`
    name ("model", "optimizer.step"), or all.

    A rank that did not save takes rank 0's state, but for the generators: two ranks must not draw the same numbers.
    Tensors are read straight into the DTensors of `like`, a state of the same nesting, where it has them.

    Raises:
        UnreadableInput: a file is missing or damaged.
        UsageError: a part that the state does not hold.
    """
    shards = Shards(folder)
    state = _document(folder, rank) if (folder / manifest.NAME).exists() else _foreign(shards.paths())
    if parts is not None:
        state = select(state, parts)
    sharded = _Sharded(like or {})
    targets: dict[str, Any] = {}

    def claim(path: tuple[str, ...], stored: _Stored) -> _Stored:
        targets[stored.name] = shards.empty(stored.name, sharded.model_of(path))
        return stored

    _walk(state, claim)
    shards.read(targets)
    return _walk(state, lambda _, stored: targets[stored.name].numpy() if stored.numpy else targets[stored.name])


def _document(folder: Path, rank: int) -> dict[str, Any]:
    own = folder / f"state-{rank}.json"
    file = own if own.exists() else folder / "state-0.json"
    where = plain(file, 1000)
    try:
        if file.stat().st_size > inspection.STATE_LIMIT:
            raise UnreadableInput(f"larger than {inspection.STATE_LIMIT >> 20} MiB.", file=where)
        value = json.loads(file.read_bytes())
        state = encoding.decode(value["state"], _Stored)
    except OSError as error:
        raise UnreadableInput("cannot be read: the save was cut short.", file=where) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnreadableInput(f"damaged ({plain(error, 80)}).", file=where) from error
    if not isinstance(state, dict):
        raise UnreadableInput("damaged: no sections.", file=where)
    sections = cast(dict[str, Any], state)
    return sections if file == own else {name: value for name, value in sections.items() if name != "rng"}


def _foreign(paths: Mapping[str, Sequence[str | int]]) -> dict[str, Any]:
    """The nested state of a plain DCP directory, every entry still to be read. Indices of lists stay keys."""
    state: dict[str, Any] = {}
    for name, path in paths.items():
        target = state
        for key in path[:-1]:
            target = target.setdefault(str(key), {})
        target[str(path[-1])] = _Stored(name)
    return state


class _Sharded:
    """The DTensors of a state, to read into."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._at: dict[tuple[str, ...], DTensor] = {}
        self._named: dict[str, DTensor] = {}

        def note(path: tuple[str, ...], tensor: DTensor) -> DTensor:
            self._at[path] = tensor
            self._named.setdefault(path[-1], tensor)
            return tensor

        _walk(state, note, DTensor)

    def model_of(self, path: tuple[str, ...]) -> Tensor | None:
        """The DTensor at `path`, or the one that its parent is named after, as a moment's is after its parameter."""
        return self._at[path] if path in self._at else self._named.get(path[-2] if len(path) > 1 else "")


def _walk(
    value: Any, change: Callable[[tuple[str, ...], Any], Any], kind: type = _Stored, path: tuple[str, ...] = ()
) -> Any:
    """`value` with every instance of `kind` in it changed."""
    if isinstance(value, kind):
        return change(path, value)
    if isinstance(value, dict):
        entries = cast(dict[Any, Any], value)
        changed = {key: _walk(inner, change, kind, (*path, str(key))) for key, inner in entries.items()}
        return type(value)(changed) if type(value) is not dict else changed
    if type(value) in (list, tuple):
        return type(value)(_walk(inner, change, kind, (*path, str(i))) for i, inner in enumerate(value))
    return value
