"""A hash of the whole state that does not depend on how it is sharded, cheap enough to compute while training.

Each element's bits, read as a signed integer x (8-byte elements as two halves), count by their place i in the flattened
whole tensor, in two sums modulo 2⁶⁴:

    linear  Σ x·(i·K + 1),  K = 2·odd          mixed  Σ x·r(i),  r(i) odd and pseudo-random

The order of a sum does not matter, so the words of shards add up to the word of the whole. Each tensor's sums
are multiplied by odd numbers that its name, dtype and shape give, and added to one 128-bit hash.

What is certain: a flipped bit changes both words, because the change is 2ᵇ times odd numbers, b < 32. Swapping two
different elements of at most 4 bytes changes the linear word in tensors of up to 2³² elements: the change is
(x − y)·K·(j − i) times an odd number, with |x − y| < 2³² and |j − i| < 2³², so at most 31 + 1 + 31 of its 64 factors
are twos. Any other difference is missed with a probability near 2⁻⁶⁴. Everything runs on the device of the tensors, and
nothing is read on the host until `state_hash` ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from postmortem.errors import MissingExtra
from postmortem.record._layers import plain_name
from postmortem.record._shards import Shard, shard_of

try:
    import torch
    from torch import Tensor
    from torch.nn.functional import pad
    from xxhash import xxh3_128_digest
except ModuleNotFoundError as error:
    raise MissingExtra("hashing states", "train") from error

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

STATE_HASH = "position sums, 2 x int64 v1"

_BLOCK = 2**14  # elements that share one multiplier of r(i); part of the definition of the hash
_STEP = 2 * 0x1E3779B97F4A7C15  # K
_SMALL = 2**13  # tensors of fewer elements are joined before they are summed: calls cost more than they do
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32}
_Place: TypeAlias = tuple[int, int, int, int, int]  # block, offset, elements, and the two multipliers


@dataclass(frozen=True)
class StateHash:
    """`hex` is 32 hex digits; `nonfinite` maps a tensor's name to the number of its NaN and Inf elements, where any."""

    hex: str
    nonfinite: dict[str, int]


@dataclass(frozen=True)
class Partial:
    """What this rank adds to the hash, for the tensors on one device that are split over the same `groups`.

    `words` is int64[2] on that device. `nan_marks` is a float[names] there: 0, or NaN if this rank's part of the tensor
    of that name has an element that is NaN or infinite.
    """

    words: Tensor
    names: tuple[str, ...]
    nan_marks: Tensor
    groups: tuple[ProcessGroup, ...]


def state_hash(tensors: Mapping[str, Tensor]) -> StateHash:
    """The hash of all of `tensors`, the same however the DTensors among them are sharded.

    With sharded DTensors it is a collective: each rank of their mesh has to call it, with the same names in the same
    order. One all-reduce of a few numbers takes place for each mesh dimension over which tensors are split.
    Plain tensors are hashed as this rank holds them, so ranks whose replicas differ get different hashes.
    """
    total, nonfinite = [0, 0], dict[str, int]()
    by_name = {plain_name(name): tensor for name, tensor in tensors.items()}
    for part in partials(tensors):
        marks = part.nan_marks.tolist()
        counts = [
            _count_nonfinite(shard_of(by_name[name]).local) if mark != 0 else 0
            for name, mark in zip(part.names, marks, strict=True)
        ]
        sums = torch.cat([part.words, torch.tensor(counts, device=part.words.device)])
        for group in part.groups:
            torch.distributed.all_reduce(sums, group=group)
        first, second, *counts = sums.tolist()
        total = [total[0] + first, total[1] + second]
        nonfinite |= {name: count for name, count in zip(part.names, counts, strict=True) if count}
    return StateHash(hex_of(total), nonfinite)


def join_parts(parts: Sequence[str]) -> str:
    """The hash of the whole, from the hashes that the ranks of a fully sharded state made of their own parts."""
    words = [(int(part[:16], 16), int(part[16:], 16)) for part in parts]
    return hex_of([sum(first for first, _ in words), sum(second for _, second in words)])


def hex_of(words: Sequence[int]) -> str:
    """32 hex digits of two int64 words."""
    return "".join(f"{word % 2**64:016x}" for word in words)


def partials(tensors: Mapping[str, Tensor]) -> list[Partial]:
    """What this rank adds to the hash, one entry per device and way of sharding, without any communication."""
    ways: dict[tuple[object, ...], list[tuple[str, Shard]]] = {}
    for name, tensor in tensors.items():
        shard = shard_of(tensor)
        ways.setdefault((shard.local.device, shard.groups), []).append((plain_name(name), shard))
    return [_partial(named_shards) for named_shards in ways.values()]


@torch.no_grad()
def _partial(named_shards: Sequence[tuple[str, Shard]]) -> Partial:
    device, groups = named_shards[0][1].local.device, named_shards[0][1].groups
    sums = [torch.zeros(2, dtype=torch.int64, device=device)]
    small: dict[torch.dtype, tuple[list[Tensor], list[_Place]]] = {}
    constant = [0, 0]
    for name, shard in named_shards:
        for number, stream in enumerate(_streams(shard.local)):
            a, b, *header = _identity(name, shard.local.dtype, shard.shape, number)
            if shard.first:
                constant = [before + word for before, word in zip(constant, header, strict=True)]
            for x, block, offset in _blocks(stream, shard):
                if x.numel() <= _SMALL:
                    members, places = small.setdefault(x.dtype, ([], []))
                    members.append(x.view(-1))
                    places.append((block, offset, x.numel(), a, b))
                else:
                    sums.append(_sums(x, block, offset, a, b))
    for members, places in small.values():
        weights = _packed_weights(tuple(places), device)
        x = torch.cat(members).to(torch.int64).view(1, -1)
        sums.append(torch.cat([_dot(x, weight) for weight in weights]))
    words = torch.stack(sums).sum(0) + _constant(_signed(constant[0]), _signed(constant[1]), device)
    marks = _nan_marks([shard.local for _, shard in named_shards])
    return Partial(words, tuple(name for name, _ in named_shards), marks, groups)


@lru_cache(maxsize=65_536)
def _identity(name: str, dtype: torch.dtype, shape: tuple[int, ...], stream: int) -> tuple[int, int, int, int]:
    """Two odd multipliers and two words, int64, for one stream of one tensor."""
    identity = f"{name}\0{dtype}{shape}{stream}".encode()
    digits = xxh3_128_digest(identity, 1) + xxh3_128_digest(identity, 2)
    a, b, first, second = (int.from_bytes(digits[i : i + 8], "little", signed=True) for i in range(0, 32, 8))
    return a | 1, b | 1, first, second


def _streams(local: Tensor) -> list[Tensor]:
    """`local`'s bits as signed integers of at most 4 bytes, in its shape; more than one where elements are wider."""
    size = local.element_size()
    if size <= 4:
        return [local.view(_INTEGERS[size])]
    halves = local.contiguous().reshape(-1, 1).view(torch.int32)
    return [half.view(local.shape) for half in halves.unbind(1)]


def _blocks(stream: Tensor, shard: Shard) -> Iterator[tuple[Tensor, int, int]]:
    """(x[rows, n], block, offset): row r of x lies in block + r of the whole, from its element `offset` on."""
    if not shard.groups and 0 < stream.numel() <= _BLOCK:
        yield stream.reshape(1, -1), 0, 0
        return
    most = max(1, _elements_at_once(stream.device) // _BLOCK)
    for flat, start in _runs(stream, shard):
        block, offset = divmod(start, _BLOCK)
        begin, size = 0, flat.numel()
        while begin < size:
            whole = 0 if offset else min(most, (size - begin) // _BLOCK)
            end = begin + (whole * _BLOCK or min(_BLOCK - offset, size - begin))
            yield flat[begin:end].view(whole or 1, -1), block, offset
            begin, block, offset = end, block + (whole or 1), 0


def _runs(stream: Tensor, shard: Shard) -> Iterator[tuple[Tensor, int]]:
    """(flat, start): flat[k] is element start + k of the whole.

    A shard along another dimension than the first is padded with zeros, which add nothing to the sums.
    """
    if not shard.groups:
        yield stream.reshape(-1), 0
        return
    if not stream.numel():
        return
    row = prod(shard.shape[1:])
    if tuple(stream.shape[1:]) == shard.shape[1:]:
        yield stream.reshape(-1), shard.offsets[0] * row
        return
    sizes = zip(shard.shape[1:], shard.offsets[1:], stream.shape[1:], strict=True)
    margins = [margin for whole, offset, size in reversed(list(sizes)) for margin in (offset, whole - offset - size)]
    rows = max(1, _elements_at_once(stream.device) // row)
    for number, part in enumerate(stream.split(rows)):
        yield pad(part, margins).view(-1), (shard.offsets[0] + number * rows) * row


def _sums(x: Tensor, block: int, offset: int, a: int, b: int) -> Tensor:
    """int64[2]: the two sums over x[rows, n], times a and b."""
    rows, n = x.shape
    place, random = (table[offset : offset + n] for table in _tables(x.device))
    before, multiplier = _block_factors(block, rows, x.device)
    wide = x.to(torch.int64)
    linear = _dot(wide, place) + wide.sum(1) * before
    return torch.stack([linear.sum() * a, (_dot(wide, random) * multiplier).sum() * b])


def _dot(x: Tensor, weights: Tensor) -> Tensor:
    """int64[rows] from x[rows, n] and weights[n]; accelerators have no such product of integers."""
    return torch.mv(x, weights) if x.is_cpu else (x * weights).sum(1)


@lru_cache(maxsize=16)
def _packed_weights(places: tuple[_Place, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The factors of the elements of many small tensors, one after another."""
    packed: tuple[list[Tensor], list[Tensor]] = ([], [])
    for block, offset, n, a, b in places:
        place, random = (table[offset : offset + n] for table in _tables(device))
        before, multiplier = _block_factors(block, 1, device)
        packed[0].append((place + before) * a)
        packed[1].append(random * multiplier * b)
    return torch.cat(packed[0]), torch.cat(packed[1])


@lru_cache(maxsize=16)
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """int64[block] each: j·K + 1, and the pseudo-random odd number, of place j within a block."""
    place = torch.arange(_BLOCK, device=device)
    return place * _signed(_STEP) + 1, _random_odd(place)


@lru_cache(maxsize=4096)
def _block_factors(block: int, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """int64[rows] each: what each block adds to i·K, and its pseudo-random odd multiplier."""
    blocks = torch.arange(block, block + rows, device=device)
    return blocks * _signed(_STEP * _BLOCK), _random_odd(blocks + 2**40)


def _random_odd(z: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014) on int64, made odd."""
    z = (z + 1) * _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        z = (z ^ ((z >> shift) & (2 ** (64 - shift) - 1))) * _signed(factor)
    return z | 1


def _nan_marks(tensors: Sequence[Tensor]) -> Tensor:
    """float[tensors]: 0, or NaN if an element is NaN or infinite: a tensor's smallest and largest element, each minus
    itself.
    """
    extremes = [torch.aminmax(_real(tensor)) for tensor in tensors]
    low, high = (torch.stack(values) for values in zip(*extremes, strict=True))
    return (low - low) + (high - high)


def _real(tensor: Tensor) -> Tensor:
    """`tensor` in a dtype that has a smallest and a largest element, finite where `tensor` is."""
    if not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
        return torch.zeros(1, device=tensor.device)
    if tensor.is_complex():
        return torch.view_as_real(tensor)
    return tensor.to(torch.float32) if tensor.element_size() == 1 else tensor


def _count_nonfinite(tensor: Tensor) -> int:
    """How many elements of `tensor` are NaN or Inf."""
    return int(torch.count_nonzero(~torch.isfinite(_real(tensor))))


@lru_cache(maxsize=16)
def _constant(first: int, second: int, device: torch.device) -> Tensor:
    return torch.tensor([first, second], device=device)


def _elements_at_once(device: torch.device) -> int:
    """Elements that are widened to int64 at a time: what a CPU's cache holds, or what keeps an accelerator busy."""
    return 2**15 if device.type == "cpu" else 2**22


def _signed(word: int) -> int:
    """`word` modulo 2⁶⁴ as the int64 of the same bits."""
    return (word + 2**63) % 2**64 - 2**63
