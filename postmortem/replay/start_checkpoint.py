"""Where a replay can start: the complete checkpoints of a run, found without opening them."""

from __future__ import annotations

from pathlib import Path

from postmortem.errors import UsageError
from postmortem.replay.spec import ReplaySpec
from postmortem.run import Checkpoint
from postmortem.run.recorded import RecordedRun
from postmortem.text import plain


def find_checkpoint(recorded: RecordedRun, spec: ReplaySpec) -> Path | None:
    """The directory of the checkpoint to start from; None for the fresh program of step 0.

    Raises:
        UsageError: the run holds none of that step; names those it has.
    """
    run = recorded.run
    if spec.checkpoint is not None:
        for one in run.checkpoints:
            if run.root is not None and one.path.resolve() == (run.root / spec.checkpoint).resolve():
                return one.path
        raise UsageError(f"{plain(spec.checkpoint, 300)}: the run holds no such checkpoint; {_held(recorded)}")
    if spec.from_step == 0:
        return None
    held = [one for one in usable(recorded) if one.step == spec.from_step]
    if not held:
        raise UsageError(f"no complete checkpoint of step {spec.from_step} is held; {_held(recorded)}")
    return min(held, key=lambda one: one.parameters_only).path


def usable(recorded: RecordedRun) -> list[Checkpoint]:
    """Complete rollback and recovery checkpoints, by step."""
    return [one for one in recorded.run.checkpoints if one.complete and one.role in ("rollback", "recovery")]


def _held(recorded: RecordedRun) -> str:
    steps = [str(step) for step in sorted({one.step for one in usable(recorded)})]
    return f"there are those of steps {', '.join(['0 (from scratch)', *steps])}: choose one with --from-step"
