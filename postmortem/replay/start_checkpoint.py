"""Finds the checkpoint from which a replay starts, without opening any."""

from __future__ import annotations

from pathlib import Path

from postmortem.atomic import real_path
from postmortem.errors import UsageError
from postmortem.replay.spec import ReplaySpec
from postmortem.run import Checkpoint
from postmortem.run.recorded import RecordedRun
from postmortem.text import plain


def find_checkpoint(recorded: RecordedRun, spec: ReplaySpec) -> Path | None:
    """The directory of the checkpoint to start from; None for the fresh program of step 0.

    Raises:
        UsageError: the run has no such checkpoint; the message lists those it has.
    """
    run = recorded.run
    if spec.checkpoint is not None:
        for checkpoint in run.checkpoints:
            if run.root is not None and real_path(checkpoint.path) == real_path(run.root / spec.checkpoint):
                return checkpoint.path
        raise UsageError(f"{plain(spec.checkpoint, 300)}: the run has no such checkpoint; {_available(recorded)}")
    if spec.from_step == 0:
        return None
    candidates = [checkpoint for checkpoint in usable_checkpoints(recorded) if checkpoint.step == spec.from_step]
    if not candidates:
        raise UsageError(f"the run has no complete checkpoint of step {spec.from_step}; {_available(recorded)}")
    return min(candidates, key=lambda checkpoint: checkpoint.parameters_only).path


def usable_checkpoints(recorded: RecordedRun) -> list[Checkpoint]:
    """Complete rollback and recovery checkpoints, by step."""
    return [
        checkpoint
        for checkpoint in recorded.run.checkpoints
        if checkpoint.complete and checkpoint.role in ("rollback", "recovery")
    ]


def _available(recorded: RecordedRun) -> str:
    steps = [str(step) for step in sorted({checkpoint.step for checkpoint in usable_checkpoints(recorded)})]
    return f"it has those of steps {', '.join(['0 (from scratch)', *steps])}: choose one with --from-step"
