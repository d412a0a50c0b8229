"""A program built as its run built it, and brought to the state of a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from postmortem.checkpoint import inspection
from postmortem.checkpoint.load import read_state
from postmortem.errors import UsageError
from postmortem.program import Program, ProgramFactory, State
from postmortem.replay.recorded import Recorded
from postmortem.text import plain


def use_threads_of(recorded: Recorded) -> None:
    """As many threads as the run had: another number sums in another order."""
    threads = recorded.run.manifest.environment.get("threads")
    if type(threads) is int and 0 < threads <= 1024:
        torch.set_num_threads(threads)


def build(factory: ProgramFactory, config: Mapping[str, Any]) -> Program:
    """A fresh program of `config`; the process's own generators are seeded before, as programs seldom seed all.

    Raises:
        UsageError: the program cannot be built.
    """
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    try:
        return factory(config)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"the program cannot be built of the run's config: {type(error).__name__}: {plain(error, 300)}"
        ) from error


def saved_state(checkpoint: Path, rank: int, program: Program) -> State:
    """What `rank` takes over from a checkpoint, sharded as `program` is.

    Raises:
        UnreadableInput: the checkpoint is damaged.
    """
    inspection.check(checkpoint)
    return read_state(checkpoint, rank=rank, like=program.state_dict())
