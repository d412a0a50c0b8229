"""Takes a state apart: plain values into one JSON document, tensors into copies that training no longer changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from postmortem.checkpoint import encoding
from postmortem.errors import UsageError
from postmortem.text import plain

SHARED = ("model", "optimizer")
"""Sections whose tensors are the same on all ranks, or DTensors. All other sections belong to their rank."""
_INLINE_LIMIT = 64 * 2**10


@dataclass(frozen=True)
class Staged:
    """One rank's state at one step, which later steps do not change.

    document: the state as JSON, tensors by name. tensors: the nested mapping of CPU tensors that DCP writes. local:
    name → this rank's piece of each parameter. count: number of tensors.
    """

    document: Any
    tensors: dict[str, Any]
    local: dict[str, Tensor]
    count: int


def stage(state: Mapping[str, Any], rank: int, shared: Collection[str] = SHARED) -> Staged:
    """Take `state` apart and copy its tensors, which waits for their accelerator.

    Raises:
        UsageError: a value that cannot be in a checkpoint, or two tensors of one name.
    """
    tensors: dict[encoding.Path, Tensor] = {}

    def outside(path: encoding.Path, value: Any) -> object | None:
        is_array = not isinstance(value, Tensor)
        is_shared = path[0] in shared and not is_array
        if not isinstance(value, DTensor) and not is_shared:
            if value.nbytes <= _INLINE_LIMIT:
                return None
            path = (f"rank-{rank}", *path)
        tensor = torch.from_numpy(np.ascontiguousarray(value)) if is_array else cast(Tensor, value)
        if tensor.layout != torch.strided:
            raise UsageError(f"{plain('.'.join(path))}: a sparse tensor cannot go into a checkpoint; make it dense")
        tensors[path] = tensor
        return {"$shared": ".".join(path)} | ({"numpy": True} if is_array else {})

    document = encoding.encode(dict(state), outside)
    names = {".".join(path) for path in tensors}
    if len(names) != len(tensors):
        raise UsageError("two tensors of the state have the same dotted name; rename one of them")
    copies = {path: tensor.detach().to("cpu", copy=True).contiguous() for path, tensor in tensors.items()}
    local = {
        ".".join(path[1:]): copy.to_local() if isinstance(copy, DTensor) else copy
        for path, copy in copies.items()
        if path[0] == "model"
    }
    return Staged(document, _nested(copies), local, len(copies))


def _nested(tensors: Mapping[encoding.Path, Tensor]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, tensor in tensors.items():
        target = nested
        for key in path[:-1]:
            target = target.setdefault(key, {})
        target[path[-1]] = tensor
    return nested
