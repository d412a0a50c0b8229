"""A training that keeps its own loop, turned inside out.

The loop runs in a thread and asks its loader for batches. The loader waits until the driver gives it one, and the
driver waits until the loop asks for the next: only one of the two runs at a time.
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

_PATIENCE = 60.0  # seconds that a loop gets to end once it is told to


class _Closed(BaseException):
    """Ends the loop; no loop takes it for an error that it could go on after."""


class Feed:
    """Hands a loop its batches. `before_batch` is called in the loop's thread when an update's first one is there."""

    def __init__(self, before_batch: Callable[[], None]) -> None:
        self._before_batch = before_batch
        self._given: SimpleQueue[Sequence[Any] | None] = SimpleQueue()
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._left: deque[Any] = deque()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.ended = False

    @property
    def left(self) -> int:
        """Micro-batches that were given and not asked for."""
        return len(self._left)

    def loader(self, length: int) -> DataLoader[Any]:
        """A loader of `length` batches an epoch, for the loop to iterate over; it draws from no global generator."""
        rows, single = _Whatever(self, length), _Singles(length)
        return _FeedLoader(rows, batch_sampler=single, collate_fn=_only, generator=torch.Generator())

    def start(self, training: Callable[[], Any]) -> None:
        """Run the loop until it asks for its first batch. Raises what the loop raises."""
        accelerated = torch.accelerator.is_available()
        device = torch.accelerator.current_device_index() if accelerated else None
        work = (self._run, training, device)
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=work, daemon=True)
        self._thread.start()
        self._wait()

    def give(self, parts: Sequence[Any]) -> None:
        """Have the loop consume the micro-batches of one update. Raises what the loop raises."""
        self._given.put(parts)
        self._wait()

    def close(self) -> None:
        """End the loop where it waits."""
        self._given.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)

    def part(self) -> Any:
        """The next micro-batch; called by the loop, which waits for it."""
        if not self._left:
            self._asked.put(None)
            parts = self._given.get()
            if parts is None:
                raise _Closed
            self._left.extend(parts)
            self._before_batch()
        return self._left.popleft()

    def _run(self, training: Callable[[], Any], device: int | None) -> None:
        try:
            if device is not None:
                torch.accelerator.set_device_index(device)  # of this thread
            training()
        except _Closed:
            pass
        except BaseException as error:
            self._failure = error
        self.ended = True
        self._asked.put(None)

    def _wait(self) -> None:
        self._asked.get()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


class _FeedLoader(DataLoader[Any]):
    """Its place in the data is the feed's, so that nothing is to be saved or restored: a loop that resumes goes on."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class _Whatever(Dataset[Any]):
    """Whatever row is asked for, it is the next micro-batch."""

    def __init__(self, feed: Feed, length: int) -> None:
        self._feed, self._length = feed, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> Any:
        return self._feed.part()


class _Singles(Sampler[list[int]]):
    """[0], [1], …: one row to a batch. A loop that resumes may pass over as many as it has had."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        return ([row] for row in range(self._length))


def _only(rows: list[Any]) -> Any:
    return rows[0]
