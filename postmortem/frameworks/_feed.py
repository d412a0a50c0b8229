"""Feeds batches to a training loop that asks for them itself, so that a driver controls it step by step.

The loop runs in a thread and asks its loader for batches. The loader waits until the driver gives it a batch, and the
driver waits until the loop asks for the next one: only one of the two runs at a time.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

_PATIENCE = 60.0  # seconds within which a loop must end after it was asked to


class _Closed(BaseException):
    """Ends the loop; a BaseException, so that no loop handles it as an error and continues."""


class BatchFeed:
    """Gives a loop its batches. `before_batch` is called in the loop's thread before the first micro-batch of an
    update."""

    def __init__(self, before_batch: Callable[[], None]) -> None:
        self._before_batch = before_batch
        self._to_loop: SimpleQueue[Sequence[Any] | None] = SimpleQueue()
        self._requests: SimpleQueue[None] = SimpleQueue()
        self._unused: deque[Any] = deque()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.ended = False

    @property
    def unused_parts(self) -> int:
        """Number of micro-batches that the loop has not asked for yet."""
        return len(self._unused)

    def loader(self, length: int) -> DataLoader[Any]:
        """A loader for the loop, with `length` batches per epoch; it draws from no global generator."""
        dataset, sampler = _FeedDataset(self, length), _SingleRowBatches(length)
        return _FeedLoader(dataset, batch_sampler=sampler, collate_fn=_single_row, generator=torch.Generator())

    def start(self, training: Callable[[], Any]) -> None:
        """Run the loop until it asks for its first batch. Raises what the loop raises."""
        accelerated = torch.accelerator.is_available()
        device = torch.accelerator.current_device_index() if accelerated else None
        arguments = (self._run_training, training, device)
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=arguments, daemon=True)
        self._thread.start()
        self._wait_for_request()

    def give(self, parts: Sequence[Any]) -> None:
        """Let the loop consume the micro-batches of one update. Raises what the loop raises."""
        self._to_loop.put(parts)
        self._wait_for_request()

    def close(self) -> None:
        """End the loop while it waits for a batch."""
        self._to_loop.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)

    def next_part(self) -> Any:
        """The next micro-batch; the loop calls this and waits."""
        if not self._unused:
            self._requests.put(None)
            parts = self._to_loop.get()
            if parts is None:
                raise _Closed
            self._unused.extend(parts)
            self._before_batch()
        return self._unused.popleft()

    def _run_training(self, training: Callable[[], Any], device: int | None) -> None:
        try:
            if device is not None:
                torch.accelerator.set_device_index(device)  # the device is set per thread
            training()
        except _Closed:
            pass
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            self._failure = error
        self.ended = True
        self._requests.put(None)

    def _wait_for_request(self) -> None:
        self._requests.get()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


class _FeedLoader(DataLoader[Any]):
    """Its position is that of the feed, so it has no state to save or restore."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class _FeedDataset(Dataset[Any]):
    """Returns the next micro-batch, for any row."""

    def __init__(self, feed: BatchFeed, length: int) -> None:
        self._feed, self._length = feed, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> Any:
        return self._feed.next_part()


class _SingleRowBatches(Sampler[list[int]]):
    """[0], [1], …: one row per batch. A loop that resumes may skip those that it already had."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        return ([row] for row in range(self._length))


def _single_row(rows: list[Any]) -> Any:
    return rows[0]
