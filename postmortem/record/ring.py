"""The token ids of the last batches, by reference, so that those before an incident can still be written.

A reference costs nothing while all is well. Loaders reuse buffers, though: before ids are written they are hashed
again, and what no longer has the hash it was trained on with is dropped.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from postmortem.errors import UsageError
from postmortem.record.transfer import is_tensor

if TYPE_CHECKING:
    from torch import Tensor

Ids = NDArray[np.generic]
Which: TypeAlias = Literal["incidents", "always", "never"]
_STEPS_AFTER = 16  # an incident, batches are still written
_KEYS = ("input_ids", "tokens", "ids", "x")


@dataclass(slots=True)
class Kept:
    """The ids of one batch, a view of the buffer they came in, with the hash they had then."""

    later: int
    step: int
    ids: Ids
    hash: str


class Ring:
    """The newest batches: at most `most` of them, of at most `limit` bytes together once it is trimmed.

    `push` only appends: giving back a batch's memory takes longer than hashing it, and is left to the background.
    """

    def __init__(self, most: int = 64, limit: int = 64 * 2**20) -> None:
        self._most, self._limit = most, limit
        self._kept: deque[Kept] = deque()
        self._untrimmed = 0  # bytes
        self._lock = threading.Lock()

    def push(self, kept: Kept) -> None:
        """Add one batch."""
        self._kept.append(kept)
        self._untrimmed += kept.ids.nbytes
        if self._untrimmed > self._limit:
            self.trim()

    def trim(self) -> None:
        """Let the oldest leave."""
        with self._lock:
            self._untrimmed = 0
            kept = self._kept
            size = sum(one.ids.nbytes for one in tuple(kept))
            while len(kept) > self._most or size > self._limit:
                size -= kept.popleft().ids.nbytes

    def take(self) -> tuple[list[Kept], int]:
        """Empty it: (batches with copies of their ids, oldest first; how many are left out, their buffers reused)."""
        self.trim()
        with self._lock:
            held = list(self._kept)
            self._kept.clear()
        if not held:  # a loop that hands over no batches needs no hash functions, and may have none
            return [], 0
        from postmortem.record.hashing import batch_hash

        copies = [Kept(one.later, one.step, one.ids.copy(), one.hash) for one in held]
        found = [one for one in copies if batch_hash(one.ids) == one.hash]
        return found, len(copies) - len(found)


class TokenIds:
    """Which batches' ids are written: those around an incident, all, or none; and their text, where it can be told."""

    def __init__(self, which: Which, decode: Callable[[list[int]], str] | None) -> None:
        self.decode_failure: Exception | None = None
        self._which, self._decode = which, decode
        self._ring = Ring()
        self._due: deque[Kept] = deque()
        self._until = -1
        self._hash: Callable[[Ids], str] | None = None

    def keep(self, later: int, step: int, ids: Ids) -> str:
        """The hash of a batch; its ids are kept hold of as long as they may be wanted."""
        if self._hash is None:
            from postmortem.record.hashing import batch_hash

            self._hash = batch_hash
        digest = self._hash(ids)
        if self._which == "never" or ids.dtype.kind not in "iu":  # pictures, sounds: what is kept is token ids
            return digest
        if step > self._until and self._which == "incidents":
            self._ring.push(Kept(later, step, ids, digest))
        else:
            self._due.append(Kept(later, step, ids.copy(), digest))
        return digest

    def trim(self) -> None:
        """Let go of what is too old to be wanted; for the background."""
        self._ring.trim()

    def incident(self, step: int) -> int:
        """Have the ring's batches and the next 16 steps' written. Returns how many were overwritten meanwhile."""
        if self._which != "incidents":
            return 0
        self._until = step + _STEPS_AFTER
        kept, reused = self._ring.take()
        self._due.extend(kept)
        return reused

    def rewound(self, step: int) -> None:
        """The run goes on from `step` again."""
        self._until = min(self._until, step + _STEPS_AFTER)

    def rows(self) -> Iterator[tuple[Kept, dict[str, Any]]]:
        """Rows to be written, made one at a time because that takes milliseconds each."""
        while self._due:
            kept = self._due.popleft()
            ids: list[Any] = kept.ids.tolist()
            row: dict[str, Any] = {"token_ids": ids}
            if self._decode is not None:
                samples: list[Any] = ids if kept.ids.ndim > 1 else [ids]
                try:
                    row["sample_text"] = [str(self._decode(sample)) for sample in samples]
                except Exception as error:  # the user's function: its failure costs the text only
                    self.decode_failure = error
            yield kept, row


def ids_of(batch: object) -> Ids | Tensor:
    """The ids in what a loader hands over: a tensor, an array or lists, alone, first in a tuple, or under a known name.

    Ids on the CPU come as an array (of a tensor's own memory), those on a device as the tensor.

    Raises:
        UsageError: there are none.
    """
    if is_tensor(batch):
        tensor: Tensor = batch
        try:
            return tensor.numpy() if tensor.is_cpu else tensor
        except (TypeError, RuntimeError) as error:  # bfloat16, a tensor with a gradient: no token ids
            raise UsageError(f"batch: a tensor of {tensor.dtype} holds no token ids; hand those over") from error
    if isinstance(batch, np.ndarray):
        return cast(Ids, batch)
    if isinstance(batch, Mapping):
        mapping = cast(Mapping[str, object], batch)
        for key in _KEYS:
            if key in mapping:
                return ids_of(mapping[key])
        raise UsageError(f"batch: none of {', '.join(_KEYS)} is among its keys; hand over the token ids themselves")
    if isinstance(batch, (list, tuple)) and batch:
        first: object = batch[0]
        if is_tensor(first) or isinstance(first, (np.ndarray, Mapping)):
            return ids_of(cast(object, first))
        try:
            ids = np.asarray(batch)
        except ValueError:
            raise UsageError("batch: its lists differ in length; pad them, or hand over one list") from None
        if ids.dtype.kind in "iu":
            return ids
    raise UsageError(
        f"batch: a {type(batch).__name__} holds no token ids; hand over a tensor, an array, or lists of whole numbers"
    )
