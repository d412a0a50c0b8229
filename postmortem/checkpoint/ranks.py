"""The ranks that save and load together, in their own process group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch.distributed as dist

from postmortem.errors import UnreadableInput
from postmortem.text import plain

T = TypeVar("T")


class RankFailed(UnreadableInput):
    """Another rank could not do its part; the message has its error."""


class Ranks:
    """All ranks of the default process group, or this process alone.

    The group uses gloo and is not shared: its collectives run in another thread, beside the training's. All ranks have
    to construct their object together.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self.rank, self.world = 0, 1
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")
            self.rank, self.world = dist.get_rank(), dist.get_world_size()

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes what all ranks share."""
        return self.rank == 0

    def run_on_all_ranks(self, part: Callable[[], T]) -> list[T]:
        """The results of `part` on each rank, by rank. If it raises on one rank, this raises on every rank."""
        if self._group is None:
            return [part()]
        error: Exception | None = None
        answer: tuple[Any, str | None]
        try:
            answer = part(), None
        except Exception as raised:  # noqa: BLE001 - raised again, when all ranks know of it
            error, answer = raised, (None, f"{type(raised).__name__}: {raised}")
        answers: list[Any] = [None] * self.world
        dist.all_gather_object(answers, answer, group=self._group)
        if error is not None:
            raise error
        for rank, (_, message) in enumerate(answers):
            if message is not None:
                raise RankFailed(f"rank {rank}: {plain(message, 400)}")
        return [cast(T, value) for value, _ in answers]

    def run_on_rank_0(self, part: Callable[[], T]) -> T:
        """The result of `part` on rank 0, returned on every rank; only rank 0 runs it."""
        return cast(T, self.run_on_all_ranks(lambda: part() if self.first else None)[0])
