"""Builds the program as its run built it, and restores the state of a checkpoint."""

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
from postmortem.program import FrameworkCheckpoints, Placeable, Program, ProgramFactory, State
from postmortem.record import Recorder
from postmortem.run.recorded import RecordedRun
from postmortem.text import plain


def set_recorded_threads(recorded: RecordedRun, mode: Mode) -> None:
    """Use as many threads as the run had, if the replay computes as recorded: the number decides the order of sums."""
    threads = arithmetic_of(recorded.run.manifest.environment, mode).threads
    if threads is not None:
        torch.set_num_threads(threads)


def build_program(factory: ProgramFactory, config: Mapping[str, Any]) -> Program:
    """A fresh program from `config`. The global random generators are seeded first: programs seldom seed all of them.

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
            f"the program cannot be built from the run's config: {type(error).__name__}: {plain(error, 300)}"
        ) from error


def resume_program(
    program: Program, checkpointer: Checkpointer, recorder: Recorder, checkpoint: Path, step: int, index: int
) -> None:
    """Restore a checkpoint, ours or the framework's, into the fresh `program`, and journal the resume. If the state
    does not contain its place, the next step is `step` and the next batch is `index`.

    Raises:
        UnreadableInput: the checkpoint is damaged, or not safe to load.
    """
    if not _is_our_checkpoint(checkpoint) and isinstance(program, FrameworkCheckpoints):
        restored = program.restore(checkpoint)
        if recorder.rank == 0:
            recorder.resumed(step, checkpoint, restored=list(restored))
    else:
        checkpointer.resume(checkpoint, optional=program.placed_sections if isinstance(program, Placeable) else ())
    if isinstance(program, Placeable):
        program.place(step, index)


def read_saved_state(checkpoint: Path, rank: int, program: Program, *, allow_nonfinite: bool = False) -> State:
    """The state that `rank` restores from a checkpoint, sharded like the fresh `program`.

    Raises:
        UnreadableInput: the checkpoint is damaged, not finite, or not safe to load.
    """
    if not _is_our_checkpoint(checkpoint) and isinstance(program, FrameworkCheckpoints):
        program.restore(checkpoint)
        return program.state_dict()
    inspection.require_sound(checkpoint, allow_nonfinite=allow_nonfinite)
    return read_state(checkpoint, rank=rank, like=program.state_dict())


def _is_our_checkpoint(checkpoint: Path) -> bool:
    """Whether our Checkpointer wrote the checkpoint."""
    return (checkpoint / NAME).is_file()
