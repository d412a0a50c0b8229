"""Hashes of batches and of the local state: one pass over the bytes, with xxh3_128.

Both answer "are these the same bits?", not "has somebody tampered?". The figures behind the choice of xxh3_128 are in
docs/benchmarks.md. The hash that does not depend on how a state is sharded is in `state_hash`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from postmortem.errors import MissingExtra, UsageError
from postmortem.record._layers import group_of, plain_name
from postmortem.record._shards import shard_of

try:
    from xxhash import xxh3_64_intdigest, xxh3_128, xxh3_128_hexdigest
except ModuleNotFoundError as error:
    raise MissingExtra("hashing batches and states", "train") from error

if TYPE_CHECKING:
    from torch import Tensor

# Written into run.json under "hashes": which function made the hashes of the run.
BATCH_HASH = "xxh3_128 seeded by dtype and shape, v1"
LOCAL_STATE_HASH = "xxh3_128 tree, 4 MiB v1"

_hexdigest: Callable[[Any, int], str] = xxh3_128_hexdigest  # it takes any buffer, but its annotation names only a few

_CHUNK = 4 * 2**20  # bytes hashed at a time by one thread; part of the definition of the local state hash


def batch_hash(ids: Tensor | NDArray[np.generic] | ArrayLike) -> str:
    """xxh3_128 over dtype, shape and bytes (C order, native byte order) of a batch, as 32 hex digits.

    `ids` is a CPU tensor, an array, or a nested list of equally long rows (hashed as int64 where it holds whole
    numbers). A tensor, an array and a list of the same dtype, shape and content have the same hash. Raises UsageError
    for what cannot be hashed; also for a tensor on an accelerator, which the caller has to copy first.
    """
    array = ids if isinstance(ids, np.ndarray) else _array(ids)
    try:
        return _hexdigest(array, _seed(array.dtype, array.shape))
    except (ValueError, BufferError):  # not in one piece, or in another machine's byte order
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        return _hexdigest(array, _seed(array.dtype, array.shape))


@lru_cache(maxsize=256)
def _seed(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> int:
    """A seed lets the bytes be hashed in one call, half the cost of a header and the bytes in two."""
    if dtype.kind not in "biufc":
        raise UsageError(f"a batch of dtype {dtype} cannot be hashed: it must hold numbers, in rows of one length")
    if not dtype.isnative:
        raise ValueError(f"{dtype} is not in this machine's byte order")
    return xxh3_64_intdigest(f"{dtype.name}{shape}".encode())


def _array(ids: object) -> NDArray[np.generic]:
    """A view of a tensor's memory; a copy of a list."""
    view = getattr(ids, "numpy", None)
    try:
        return cast("NDArray[np.generic]", view() if view is not None else np.asarray(ids))
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UsageError(
            f"a batch of type {type(ids).__name__} cannot be hashed: {reason}. "
            "Give token ids in a CPU tensor, an array, or lists of one length."
        ) from error


def local_state_hash(tensors: Mapping[str, Tensor], groups: Callable[[str], str] = group_of) -> dict[str, str]:
    """Group → 32 hex digits over names, dtypes, shapes, offsets and bytes of this rank's tensors.

    Of a DTensor the local shard is hashed, with its place in the whole. Bytes are hashed in chunks of 4 MiB by as many
    threads as torch uses, and the digests of the chunks in their order; the hash does not depend on the threads.
    Tensors on an accelerator are copied by chunks, which waits for them. `groups` maps a tensor's name to its group.
    """
    jobs = list(_chunks(tensors, groups))
    digests = _digests([chunk for _, _, chunk in jobs])
    hashes = defaultdict[str, xxh3_128](xxh3_128)
    for (group, header, _), digest in zip(jobs, digests, strict=True):
        hashes[group].update(header + digest)
    return {group: state.hexdigest() for group, state in hashes.items()}


def _chunks(tensors: Mapping[str, Tensor], groups: Callable[[str], str]) -> Iterator[tuple[str, bytes, Tensor]]:
    """(group, header, uint8[≤ 4 MiB] view) in order; only the first chunk of a tensor has the header."""
    import torch

    for name, tensor in tensors.items():
        shard = shard_of(tensor)
        header = f"{plain_name(name)}\0{tensor.dtype}{shard.shape}{shard.offsets}{tuple(shard.local.shape)}\0".encode()
        for chunk in shard.local.reshape(-1).view(torch.uint8).split(_CHUNK):
            yield groups(name), header, chunk
            header = b""


def _digests(chunks: Sequence[Tensor]) -> list[bytes]:
    """The digests of `chunks` in their order; whole chunks are distributed over threads, this one included."""
    import torch

    digests = [b""] * len(chunks)
    remaining = iter(enumerate(chunks))

    def work() -> None:
        for number, chunk in remaining:
            digests[number] = xxh3_128(chunk.cpu().numpy().data).digest()

    helpers = min(torch.get_num_threads(), sum(chunk.nbytes == _CHUNK for chunk in chunks)) - 1
    if helpers < 1:
        work()
        return digests
    with ThreadPoolExecutor(helpers) as pool:
        helping = [pool.submit(work) for _ in range(helpers)]
        work()
        for helper in helping:
            helper.result()
    return digests
