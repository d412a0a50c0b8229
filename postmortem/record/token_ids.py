"""The token ids of the last batches, kept by reference, so that the ids before an incident can still be written.

A reference costs nothing as long as nothing happens. But loaders reuse their buffers: before ids are written they are
hashed again, and ids whose hash has changed are dropped.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from postmortem.errors import UsageError
from postmortem.record.transfer import is_tensor

if TYPE_CHECKING:
    from torch import Tensor

Ids = NDArray[np.generic]
WhichTokenIds: TypeAlias = Literal["incidents", "always", "never"]
_STEPS_AFTER = 16  # steps after an incident whose batches are still written
_KEYS = ("input_ids", "tokens", "ids", "x")


@dataclass(slots=True)
class KeptBatch:
    """The ids of one batch, a view of the buffer they came in, with the hash they had at that time."""

    rewinds: int
    step: int
    ids: Ids
    hash: str


class RecentBatches:
    """The newest batches: at most `most` of them, and at most `limit` bytes together after `trim`.

    `add` only appends: freeing a batch's memory takes longer than hashing it, so the background thread does that.
    """

    def __init__(self, most: int = 64, limit: int = 64 * 2**20) -> None:
        self._most, self._limit = most, limit
        self._batches: deque[KeptBatch] = deque()
        self._untrimmed = 0  # bytes
        self._lock = threading.Lock()

    def add(self, batch: KeptBatch) -> None:
        """Add one batch."""
        self._batches.append(batch)
        self._untrimmed += batch.ids.nbytes
        if self._untrimmed > self._limit:
            self.trim()

    def trim(self) -> None:
        """Drop the oldest batches beyond the limits."""
        with self._lock:
            self._untrimmed = 0
            batches = self._batches
            size = sum(batch.ids.nbytes for batch in tuple(batches))
            while len(batches) > self._most or size > self._limit:
                size -= batches.popleft().ids.nbytes

    def take_all(self) -> tuple[list[KeptBatch], int]:
        """Remove and return all: (batches with copies of their ids, oldest first; how many had their buffer reused)."""
        self.trim()
        with self._lock:
            batches = list(self._batches)
            self._batches.clear()
        if not batches:  # a loop that hands over no batches needs no hash functions, and may not have them installed
            return [], 0
        from postmortem.record.hashing import batch_hash

        copies = [KeptBatch(batch.rewinds, batch.step, batch.ids.copy(), batch.hash) for batch in batches]
        unchanged = [copy for copy in copies if batch_hash(copy.ids) == copy.hash]
        return unchanged, len(copies) - len(unchanged)


class TokenIds:
    """Chooses the batches whose ids are written: those around an incident, all, or none. Adds text where it can."""

    def __init__(self, which: WhichTokenIds, decode: Callable[[list[int]], str] | None) -> None:
        self.decode_failure: Exception | None = None
        self._which, self._decode = which, decode
        self._recent = RecentBatches()
        self._due: deque[KeptBatch] = deque()
        self._until = -1
        self._hash: Callable[[Ids], str] | None = None

    def keep(self, rewinds: int, step: int, ids: Ids) -> str:
        """The hash of a batch, whose ids are kept as long as they may have to be written."""
        if self._hash is None:
            from postmortem.record.hashing import batch_hash

            self._hash = batch_hash
        digest = self._hash(ids)
        if self._which == "never" or ids.dtype.kind not in "iu":  # pictures or sounds: only token ids are kept
            return digest
        if step > self._until and self._which == "incidents":
            self._recent.add(KeptBatch(rewinds, step, ids, digest))
        else:
            self._due.append(KeptBatch(rewinds, step, ids.copy(), digest))
        return digest

    def trim(self) -> None:
        """Drop what is too old to be written; for the background thread."""
        self._recent.trim()

    def incident(self, step: int) -> int:
        """Have the recent batches and those of the next 16 steps written; how many were overwritten meanwhile."""
        if self._which != "incidents":
            return 0
        self._until = step + _STEPS_AFTER
        batches, reused = self._recent.take_all()
        self._due.extend(batches)
        return reused

    def rewind(self, step: int) -> None:
        """The run continues from `step` again."""
        self._until = min(self._until, step + _STEPS_AFTER)

    def rows(self) -> Iterator[tuple[KeptBatch, dict[str, Any]]]:
        """Rows to be written, made one at a time because each takes milliseconds."""
        while self._due:
            batch = self._due.popleft()
            ids: list[Any] = batch.ids.tolist()
            row: dict[str, Any] = {"token_ids": ids}
            if self._decode is not None:
                samples: list[Any] = ids if batch.ids.ndim > 1 else [ids]
                try:
                    row["sample_text"] = [str(self._decode(sample)) for sample in samples]
                except Exception as error:  # noqa: BLE001 - the user's function: its failure costs only the text
                    self.decode_failure = error
            yield batch, row


def ids_of(batch: object) -> Ids | Tensor:
    """The ids in a loader's batch: a tensor, an array or lists; alone, first in a tuple, or under a usual name.

    Ids on the CPU are returned as an array (for a tensor, a view of its memory), ids on a device as the tensor.

    Raises:
        UsageError: it holds no ids.
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
        ids = _array_of_lists(cast(Sequence[object], batch))
        if ids.dtype.kind in "iu":
            return ids
    raise UsageError(
        f"batch: a {type(batch).__name__} holds no token ids; hand over a tensor, an array, or lists of whole numbers"
    )


def _array_of_lists(batch: Sequence[object]) -> Ids:
    try:
        return np.asarray(batch)
    except ValueError:
        raise UsageError("batch: its lists differ in length; pad them, or hand over one list") from None
