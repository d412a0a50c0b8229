"""A program built as its run built it, and brought to the state of a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from postmortem.arithmetic import Mode, arithmetic_of
from postmortem.checkpoint import Checkpointer, inspection
from postmortem.checkpoint.load import read_state
from postmortem.checkpoint.manifest import NAME
from postmortem.errors import UsageError
from postmortem.program import OwnCheckpoints, Placeable, Program, ProgramFactory, State
from postmortem.record import Recorder
from postmortem.run.recorded import RecordedRun
from postmortem.text import plain


def use_threads_of(recorded: RecordedRun, mode: Mode) -> None:
    """As many threads as the run had, where its arithmetic is asked for: another number sums in another order."""
    threads = arithmetic_of(recorded.run.manifest.environment, mode).threads
    if threads is not None:
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


def resume(program: Program, saves: Checkpointer, recorder: Recorder, checkpoint: Path, step: int, index: int) -> None:
    """Bring `program`, which is fresh, to the state of a checkpoint, ours or its framework's own, and journal it. Where
    the state does not say so, it stands before `step` and batch `index`.

    Raises:
        UnreadableInput: the checkpoint is damaged, or not safe to load.
    """
    if not _ours(checkpoint) and isinstance(program, OwnCheckpoints):
        restored = program.restore(checkpoint)
        if recorder.rank == 0:
            recorder.resumed(step, checkpoint, restored=list(restored))
    else:
        saves.resume(checkpoint, optional=program.placed_sections if isinstance(program, Placeable) else ())
    if isinstance(program, Placeable):
        program.place(step, index)


def saved_state(checkpoint: Path, rank: int, program: Program) -> State:
    """What `rank` takes over from a checkpoint, sharded as `program` is, which is fresh.

    Raises:
        UnreadableInput: the checkpoint is damaged, or not safe to load.
    """
    if not _ours(checkpoint) and isinstance(program, OwnCheckpoints):
        program.restore(checkpoint)
        return program.state_dict()
    inspection.check(checkpoint)
    return read_state(checkpoint, rank=rank, like=program.state_dict())


def _ours(checkpoint: Path) -> bool:
    """Whether our Checkpointer wrote it."""
    return (checkpoint / NAME).is_file()
