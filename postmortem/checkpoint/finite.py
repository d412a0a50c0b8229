"""Counts NaN and infinite elements in the state of a running program, or in the copy of it that is being saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from postmortem.checkpoint.inspection import trained
from postmortem.checkpoint.streaming import is_mask


def nonfinite_in(state: Any) -> dict[str, int]:
    """Dotted name → number of NaN and infinite elements, for the parameters and moments in a nested state that have
    any, see `inspection.trained`.

    Of a DTensor, the elements of this rank count. Attention masks, which are −∞ on purpose, are left out: they are in
    the model, and no optimizer has moments of them.
    """
    tensors = {".".join(path): tensor for path, tensor in _tensors(state, ())}
    counts = {name: number for name, tensor in tensors.items() if (number := _count(tensor))}
    broken = trained(counts, tensors) if counts else ()
    return {name: counts[name] for name in broken if not (_without_moments(name, tensors) and _is_mask(tensors[name]))}


def merged(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The counts of all ranks as one: what several ranks have alike counts once."""
    total: dict[str, int] = {}
    for of_rank in counts:
        for name, number in of_rank.items():
            total[name] = max(number, total.get(name, 0))
    return total


def _tensors(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, DTensor):
        yield path, value.to_local()
    elif isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, np.ndarray) and cast("np.ndarray[Any, Any]", value).dtype.kind in "fc":
        yield path, torch.from_numpy(np.ascontiguousarray(value))
    elif isinstance(value, Mapping):
        for key, inner in cast("Mapping[Any, Any]", value).items():
            yield from _tensors(inner, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(cast("list[Any]", value)):
            yield from _tensors(inner, (*path, str(number)))


def _count(tensor: Tensor) -> int:
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return 0
    wide = tensor.detach().float() if tensor.itemsize == 1 else tensor.detach()
    if torch.isfinite(wide.sum(dtype=torch.float32 if wide.itemsize == 2 else None)):
        return 0  # any NaN or infinite element would be in the sum
    return int(wide.numel() - torch.isfinite(wide).sum())


def _without_moments(name: str, tensors: Mapping[str, Tensor]) -> bool:
    section, _, own = name.partition(".")
    return section == "model" and not any(f".{own}." in other for other in tensors)


def _is_mask(tensor: Tensor) -> bool:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return is_mask(str(tensor.dtype).removeprefix("torch."), [data])
