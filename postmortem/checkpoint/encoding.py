"""Writes plain state as JSON and reads it back exactly: the same types, and floats with the same bits.

None, bool, int, finite float, text, lists and mappings with text keys are written as they are. Everything else becomes
an object with one key that begins with `$`:

    {"$tuple": […]} {"$bytes": base64} {"$float": 16 hex digits of the IEEE double}
    {"$dict": [[key, value], …]} {"$ordered": …} {"$counter": …}      dict with other keys, OrderedDict, Counter
    {"$ndarray": {"dtype", "shape", "data": base64}} {"$numpy": …} {"$tensor": …}    array, NumPy scalar, small tensor
    {"$shared": name, "numpy": true?}                                  a tensor (or array) in the DCP files
"""

from __future__ import annotations

import base64
import math
import struct
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, cast

import numpy as np

from postmortem.errors import UnreadableInput, UsageError
from postmortem.text import plain

if TYPE_CHECKING:
    from torch import Tensor

Path: TypeAlias = tuple[str, ...]
Outside: TypeAlias = Callable[[Path, Any], "object | None"]
_MAPPINGS: dict[type, str] = {dict: "$dict", OrderedDict: "$ordered", Counter: "$counter"}
_KINDS: dict[str, Callable[[list[tuple[Any, Any]]], Any]] = {
    "$dict": dict,
    "$ordered": OrderedDict,
    "$counter": lambda pairs: Counter(dict(pairs)),
}


def encode(value: Any, outside: Outside, where: Path = ()) -> Any:
    """`value` as what `json.dumps` can write. `outside` is called for every tensor and array first: it returns what is
    written instead, or None if the tensor should be written here.

    Raises:
        UsageError: a value of another type; the message names the path of its key.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is list or kind is tuple:
        items = [encode(inner, outside, (*where, str(i))) for i, inner in enumerate(value)]
        return items if kind is list else {"$tuple": items}
    if kind in _MAPPINGS:
        return _encode_mapping(value, kind, outside, where)
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
        return outside(where, value) or {"$ndarray" if isinstance(value, np.ndarray) else "$numpy": _array(value)}
    if _is_tensor(value):
        return outside(where, value) or {"$tensor": tensor_bytes(value)}
    raise UsageError(
        f"{plain('.'.join(where))}: a {plain(kind.__module__)}.{plain(kind.__qualname__)} cannot go into a "
        "checkpoint; a state_dict() may hold tensors, arrays, numbers, text, bytes, None, and lists, tuples and "
        "dicts of them"
    )


def _encode_mapping(value: Mapping[Any, Any], kind: type, outside: Outside, where: Path) -> Any:
    items = [(key, encode(inner, outside, (*where, str(key)))) for key, inner in value.items()]
    if kind is dict and all(type(key) is str and not key.startswith("$") for key, _ in items):
        return dict(items)
    return {_MAPPINGS[kind]: [[encode(key, outside, (*where, "key")), inner] for key, inner in items]}


def decode(value: Any, shared: Callable[[str, bool], Any]) -> Any:
    """The state that `encode` wrote; `shared(name, numpy)` returns the tensors that are not in the JSON.

    Raises:
        UnreadableInput: something that `encode` never writes.
    """
    try:
        return _decode(value, shared)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, struct.error) as error:
        raise UnreadableInput(f"damaged ({plain(error, 80)}).", file="state") from error


def _decode(value: Any, shared: Callable[[str, bool], Any]) -> Any:
    if isinstance(value, list):
        return [_decode(inner, shared) for inner in cast(list[Any], value)]
    if not isinstance(value, dict):
        return value
    entries = cast(dict[str, Any], value)
    tag = next(iter(entries), "")
    if not tag.startswith("$"):
        return {key: _decode(inner, shared) for key, inner in entries.items()}
    inner = entries[tag]
    if tag in _KINDS:
        return _KINDS[tag]([(_decode(key, shared), _decode(entry, shared)) for key, entry in inner])
    if tag == "$tuple":
        return tuple(_decode(entry, shared) for entry in inner)
    if tag == "$shared":
        return shared(str(inner), bool(entries.get("numpy", False)))
    if tag in _LEAVES:
        return _LEAVES[tag](inner)
    raise ValueError(f"unknown tag {tag}")


def tensor_bytes(tensor: Tensor) -> dict[str, Any]:
    """dtype, shape and base64 of the bytes of a tensor, in C order."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    data = base64.b64encode(flat.numpy().tobytes()).decode()
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "data": data}


def _tensor(fields: dict[str, Any]) -> Tensor:
    import torch

    dtype = getattr(torch, fields["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"no dtype {fields['dtype']}")
    data = bytearray(base64.b64decode(fields["data"], validate=True))
    flat = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return flat.view(dtype).reshape(fields["shape"]).clone()


def _array(value: np.ndarray[Any, Any] | np.generic) -> dict[str, Any]:
    array = np.asarray(value)
    data = base64.b64encode(array.tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def _numpy(fields: dict[str, Any]) -> np.ndarray[Any, Any]:
    dtype = np.dtype(str(fields["dtype"]))
    if dtype.kind not in "biufc":
        raise ValueError(f"dtype {dtype}")
    return np.frombuffer(base64.b64decode(fields["data"], validate=True), dtype).reshape(fields["shape"]).copy()


_LEAVES: dict[str, Callable[[Any], Any]] = {
    "$bytes": lambda inner: base64.b64decode(inner, validate=True),
    "$float": lambda inner: struct.unpack(">d", bytes.fromhex(inner))[0],
    "$ndarray": _numpy,
    "$numpy": lambda inner: _numpy(inner)[()],
    "$tensor": _tensor,
}


def _is_tensor(value: object) -> TypeGuard[Tensor]:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
