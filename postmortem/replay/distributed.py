"""Ranks that a launcher such as torchrun started: they join, one of them speaks, and they part again.

    torchrun --nproc-per-node 2 -m postmortem replay RUN …

Every rank runs the same command. Rank 0 decides and prints; what goes wrong is said once, by the rank that it went
wrong on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SAID = "postmortem/said"
_PATIENCE_S = 5.0  # by then the rank on which something went wrong has said so


class Speaker(Protocol):
    """Who decides and prints: rank 0 of several, or this process alone."""

    @property
    def first(self) -> bool:
        """Whether this process is it."""
        ...

    def first_says(self, part: Callable[[], T]) -> T:
        """What `part` returns there, everywhere."""
        ...


class SingleProcess:
    """A process that no launcher started."""

    first = True

    def first_says(self, part: Callable[[], T]) -> T:
        """What `part` returns."""
        return part()


@contextmanager
def joined() -> Generator[Speaker]:
    """The process group of the ranks that were launched together, gloo on processors and nccl on devices.

    Where no launcher is at work it is `SingleProcess`, and nothing of torch is imported.

    An error leaves on one rank as it is, on the others as SystemExit with its exit code.
    """
    if not all(os.environ.get(name) for name in _LAUNCHED):
        yield SingleProcess()
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    from postmortem.checkpoint.ranks import Ranks

    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, world = next(rendezvous("env://"))
    dist.init_process_group(backend, store=PrefixStore("postmortem/group", store), rank=rank, world_size=world)
    try:
        yield Ranks()
    except SystemExit:
        raise
    except BaseException as error:
        if _is_to_say(store, error):
            raise
        time.sleep(_PATIENCE_S)  # whoever ends first has the launcher end the others, the one that speaks too
        raise SystemExit(_exit_code(error)) from error
    dist.destroy_process_group()


def _is_to_say(store: Any, error: BaseException) -> bool:
    """Whether this rank is the one to tell what went wrong: the first, and one that only heard of it from another rank
    does not hurry."""
    from postmortem.checkpoint.ranks import RankFailed

    if isinstance(error, RankFailed):
        with suppress(RuntimeError):  # it could not say it
            store.wait([_SAID], timedelta(seconds=_PATIENCE_S))
    return int(store.add(_SAID, 1)) == 1


def _exit_code(error: BaseException) -> int:
    from postmortem.errors import InternalError, Interrupted, PostmortemError

    if isinstance(error, PostmortemError):
        return error.exit_code
    return (Interrupted if isinstance(error, KeyboardInterrupt) else InternalError).exit_code
