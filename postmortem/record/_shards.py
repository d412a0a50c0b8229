"""This process's part of a tensor: all of it, or one shard of a DTensor with its place in the whole."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Shard:
    """`local` is detached and begins at `offsets` in the whole of `shape`; it is the whole if `groups` is empty.

    `groups` are the process groups whose ranks have the other shards, one per split mesh dimension; `first` says
    whether this rank is the first of each.
    """

    local: Tensor
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    groups: tuple[ProcessGroup, ...] = ()
    first: bool = True

    @property
    def count(self) -> int:
        """Number of shards the whole is split into."""
        return prod(group.size() for group in self.groups)


def local_of(tensor: Tensor) -> Tensor:
    """This process's part of `tensor`: all of it unless it is a DTensor."""
    return cast(Any, tensor).to_local() if hasattr(tensor, "placements") else tensor


def shard_of(tensor: Tensor) -> Shard:
    """This process's part of `tensor` with its place in the whole. No communication takes place."""
    shape = tuple(tensor.shape)
    if not hasattr(tensor, "placements"):
        return Shard(tensor.detach(), shape, (0,) * len(shape))
    sharded = cast(Any, tensor.detach())
    mesh, coordinate = sharded.device_mesh, sharded.device_mesh.get_coordinate()
    split = [number for number, placement in enumerate(sharded.placements) if not placement.is_replicate()]
    (chunk,) = sharded.__create_chunk_list__()  # what torch.distributed.checkpoint asks a DTensor for its place
    groups = tuple(mesh.get_group(number) for number in split)
    return Shard(sharded.to_local(), shape, tuple(chunk.offsets), groups, all(coordinate[n] == 0 for n in split))
