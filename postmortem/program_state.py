"""Lists all state of a running program, piece by piece, by inspecting its objects.

A `state_dict` that forgets the scheduler does not show that it does. So a resume is judged by the objects themselves:
everything that is reachable from the program through attributes and containers, and the global random generators. Each
piece has a path, a kind of state and a value or hash; two programs are compared piece by piece.
"""

from __future__ import annotations

import random
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import length_hint
from typing import Any, TypeAlias, cast

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

# Kinds of state, in the order in which they are blamed: what affects the next step comes first.
KINDS = (
    "parameters",
    "optimizer moments",
    "optimizer step count",
    "optimizer hyperparameters",
    "scheduler",
    "loss scaler",
    "loader position",
    "random number generator",
    "other state",
)
# Usual names of such state, which are searched in the parts of a path.
_WORDS = {
    "scheduler": ("sched", "warmup"),
    "loss scaler": ("scaler",),
    "loader position": ("loader", "sampler", "dataset", "data", "position", "cursor", "epoch", "consumed", "next"),
    "random number generator": ("rng", "generator", "dropout"),
    "optimizer hyperparameters": ("betas", "weight_decay"),
    "optimizer step count": ("adam_step",),
    "optimizer moments": ("exp_avg", "exp_avg_sq", "momentum", "moments"),
}
_OPAQUE = (types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType, type)
_Piece: TypeAlias = tuple[str, "str | None", str]  # path, kind if the type determines it, value as text
_MAX_PIECES, _MAX_DEPTH = 100_000, 12


@dataclass(frozen=True)
class StatePiece:
    """One piece of state: its path, its kind, and its value as text (a number, or the hash of an array)."""

    path: str
    kind: str
    value: str


def program_state(program: object) -> dict[str, StatePiece]:
    """Path → piece, of everything reachable from `program` and of the global random generators."""
    pieces: dict[str, StatePiece] = {}
    for path, kind, value in _walk(program, "", None, set(), 0):
        pieces.setdefault(path, StatePiece(path, kind or _kind_by_name(path), value))
        if len(pieces) >= _MAX_PIECES:
            break
    for path, value in _global_generators():
        pieces[path] = StatePiece(path, "random number generator", value)
    return pieces


def state_pieces(state: Mapping[str, Any]) -> dict[str, StatePiece]:
    """Path → piece of a state dict; the paths are dotted keys."""
    return {
        path: StatePiece(path, kind or _kind_by_name(path), value)
        for path, kind, value in _walk(state, "", None, set(), 0)
    }


def differing_pieces(a: Mapping[str, StatePiece], b: Mapping[str, StatePiece]) -> list[StatePiece]:
    """Pieces that differ or that only `a` or `b` has, in the order in which they are blamed."""
    paths = [path for path in {**a, **b} if path not in a or path not in b or a[path].value != b[path].value]
    return sorted((a.get(path) or b[path] for path in paths), key=lambda piece: (KINDS.index(piece.kind), piece.path))


def digest(value: object) -> str:
    """One hash over everything in `value`: a batch, or a state."""
    state = xxhash.xxh3_128()
    for path, _, text in _walk(value, "", None, set(), 0):
        state.update(f"{path}\0{text}\0".encode())
    return state.hexdigest()


def _walk(value: object, path: str, kind: str | None, seen: set[int], depth: int) -> Iterator[_Piece]:
    """Every leaf below `value`."""
    text = _leaf(value)
    if text is not None:
        yield path, kind, text
    elif not isinstance(value, _OPAQUE) and id(value) not in seen and depth <= _MAX_DEPTH:
        seen.add(id(value))
        yield from _walk_inside(value, path, kind, seen, depth)


def _walk_inside(value: object, path: str, kind: str | None, seen: set[int], depth: int) -> Iterator[_Piece]:
    """Every leaf below `value`, which is no leaf itself."""
    state = _generator_state(value)
    remaining = length_hint(value, -1) if isinstance(value, Iterator) else -1
    if state is not None:
        yield path, "random number generator", state
    elif remaining >= 0:
        yield path, "loader position", f"{remaining} left"
    elif isinstance(value, torch.optim.Optimizer):
        yield from _optimizer(value, path)
    elif isinstance(value, torch.amp.GradScaler):  # its attributes depend on when it was first used
        yield from _walk(value.state_dict(), path, "loss scaler", seen, depth + 1)
    elif isinstance(value, nn.Module):
        yield from _module(value, path, seen, depth)
    else:
        kind = "scheduler" if isinstance(value, torch.optim.lr_scheduler.LRScheduler) else kind
        for key, inner in _children(value, kind):
            yield from _walk(inner, _join(path, key), kind, seen, depth + 1)


def _children(value: object, kind: str | None) -> Iterable[tuple[object, object]]:
    """(key, value) of all that a container or an object has; a scheduler's optimizer is not part of it."""
    if isinstance(value, Mapping):
        return cast(Mapping[object, object], value).items()
    if isinstance(value, (list, tuple)):
        return enumerate(cast(list[object], value))
    attributes = _attributes(value).items()
    if kind != "scheduler":
        return attributes
    return [(name, inner) for name, inner in attributes if not isinstance(inner, torch.optim.Optimizer)]


def _attributes(value: object) -> dict[str, object]:
    names: dict[str, object] = {}
    for base in type(value).__mro__:
        slots = getattr(base, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and not name.startswith("__"):
                names[name] = getattr(value, name)
    return {**names, **getattr(value, "__dict__", {})}


def _optimizer(optimizer: torch.optim.Optimizer, path: str) -> Iterator[_Piece]:
    state: dict[str, Any] = optimizer.state_dict()
    for number, group in enumerate(state["param_groups"]):
        for key, inner in group.items():
            if key != "params":
                for piece_path, _, text in _walk(inner, _join(path, f"param_groups.{number}.{key}"), None, set(), 0):
                    yield piece_path, "optimizer hyperparameters", text
    for parameter, entries in state["state"].items():
        for key, inner in entries.items():
            kind = "optimizer step count" if key == "step" else "optimizer moments"
            for piece_path, _, text in _walk(inner, _join(path, f"state.{parameter}.{key}"), None, set(), 0):
                yield piece_path, kind, text


def _module(module: nn.Module, path: str, seen: set[int], depth: int) -> Iterator[_Piece]:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        yield _join(path, name), "parameters", _leaf(tensor.detach()) or ""
    for name, inner in module.named_modules():
        yield _join(path, f"{name}.training" if name else "training"), "other state", str(inner.training)
    for key, inner in vars(module).items():
        if not key.startswith("_") and not isinstance(inner, (nn.Module, nn.Parameter)) and key != "training":
            yield from _walk(inner, _join(path, key), None, seen, depth + 1)


def _leaf(value: object) -> str | None:
    """A leaf as text: exact for numbers, a hash for arrays and bytes; None if `value` is no leaf."""
    if value is None or isinstance(value, (bool, int, str)):
        return repr(value)
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, (bytes, bytearray)):
        return xxhash.xxh3_128_hexdigest(bytes(value))
    if isinstance(value, (torch.dtype, torch.device, torch.Size, complex)):
        return str(value)
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, (np.ndarray, np.generic)):
        array = cast(np.ndarray[Any, Any], np.asarray(value))
        inside = repr(array) if array.dtype.hasobject else xxhash.xxh3_128_hexdigest(array.tobytes())
        return f"{array.dtype}{array.shape}{inside}"
    return None


def _tensor(tensor: Tensor) -> str:
    local: Tensor = getattr(tensor, "to_local", lambda: tensor)()
    data = local.detach().cpu().contiguous().view(-1).view(torch.uint8) if local.numel() else local.new_zeros(0)
    return f"{tensor.dtype}{tuple(tensor.shape)}{xxhash.xxh3_128_hexdigest(data.cpu().numpy().tobytes())}"


def _generator_state(value: object) -> str | None:
    if isinstance(value, torch.Generator):
        return _tensor(value.get_state())
    if isinstance(value, random.Random):
        return digest(value.getstate())
    if isinstance(value, (np.random.Generator, np.random.BitGenerator)):
        bits = value.bit_generator if isinstance(value, np.random.Generator) else value
        return digest(bits.state)
    if isinstance(value, np.random.RandomState):
        return digest(value.get_state(legacy=False))
    return None


def _global_generators() -> Iterator[tuple[str, str]]:
    yield "random", digest(random.getstate())
    yield "numpy.random", digest(np.random.get_state(legacy=False))
    yield "torch.default_generator", _tensor(torch.get_rng_state())
    if torch.cuda.is_available():
        for number, state in enumerate(torch.cuda.get_rng_state_all()):
            yield f"torch.cuda[{number}]", _tensor(state)


def _kind_by_name(path: str) -> str:
    """The kind that the words in a path suggest; sections of a state dict are such words, too."""
    parts = [part.strip("_").lower() for part in path.split(".")]
    if parts[0] == "model":
        return "parameters"
    if parts[0] in ("optimizer", "optim"):
        name = parts[1] if len(parts) > 1 else ""
        if name == "step" or parts[-1] == "step":
            return "optimizer step count"
        return "optimizer hyperparameters" if name in ("param_groups", "hyperparameters") else "optimizer moments"
    for part in parts:
        for kind, words in _WORDS.items():
            if any(word in part for word in words):
                return kind
    return "other state"


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
