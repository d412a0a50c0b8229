"""Joins the ranks that a launcher such as torchrun started into one process group.

    torchrun --nproc-per-node 2 -m postmortem replay RUN …

Every rank runs the same command. Rank 0 decides and prints; an error is printed once, by the rank on which it happened.
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
_ERROR_REPORTED = "postmortem/error-reported"
_PATIENCE_S = 5.0  # within this time the failing rank has reported its error


class Speaker(Protocol):
    """Lets one process decide and print: rank 0 of several, or this process alone."""

    @property
    def first(self) -> bool:
        """Whether this process is that one."""
        ...

    def run_on_rank_0(self, part: Callable[[], T]) -> T:
        """Call `part` on that process; all processes get its result."""
        ...


class SingleProcess:
    """A process that no launcher started."""

    first = True

    def run_on_rank_0(self, part: Callable[[], T]) -> T:
        """The result of `part`."""
        return part()


@contextmanager
def joined_ranks() -> Generator[Speaker]:
    """The process group of the ranks that were launched together: gloo on processors, nccl on devices.

    Without a launcher it is a `SingleProcess`, and torch is not imported.

    An error is raised unchanged on one rank, and on the others as SystemExit with its exit code.
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
        if _must_report(store, error):
            raise
        time.sleep(_PATIENCE_S)  # when one rank ends, the launcher ends the others, the reporting one too
        raise SystemExit(_exit_code(error)) from error
    dist.destroy_process_group()


def _must_report(store: Any, error: BaseException) -> bool:
    """Whether this rank reports the error: the first one does. A rank that only heard of the error from another rank
    waits for that rank."""
    from postmortem.checkpoint.ranks import RankFailed

    if isinstance(error, RankFailed):
        with suppress(RuntimeError):  # the other rank could not report it
            store.wait([_ERROR_REPORTED], timedelta(seconds=_PATIENCE_S))
    return int(store.add(_ERROR_REPORTED, 1)) == 1


def _exit_code(error: BaseException) -> int:
    from postmortem.errors import InternalError, Interrupted, PostmortemError

    if isinstance(error, PostmortemError):
        return error.exit_code
    return (Interrupted if isinstance(error, KeyboardInterrupt) else InternalError).exit_code
