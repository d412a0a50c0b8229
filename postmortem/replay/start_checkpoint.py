"""Finds the checkpoint from which a replay starts: one that is known to be finite."""

from __future__ import annotations

from pathlib import Path

from postmortem.atomic import real_path
from postmortem.checkpoint.health import health_in
from postmortem.errors import UsageError
from postmortem.replay.spec import ReplaySpec
from postmortem.run import Checkpoint
from postmortem.run.recorded import RecordedRun
from postmortem.text import plain


def find_checkpoint(recorded: RecordedRun, spec: ReplaySpec, *, finite: bool = True) -> Path | None:
    """The directory of the checkpoint to start from; None for the fresh program of step 0. Without `finite` it may have
    NaN or infinite elements.

    Raises:
        UsageError: the run has no such checkpoint, or it is not finite; the message lists those that can be used.
    """
    run = recorded.run
    if spec.checkpoint is not None:
        for checkpoint in run.checkpoints:
            if run.root is not None and real_path(checkpoint.path) == real_path(run.root / spec.checkpoint):
                return (_finite(recorded, checkpoint) if finite else checkpoint).path
        raise UsageError(f"{plain(spec.checkpoint, 300)}: the run has no such checkpoint; {_available(recorded)}")
    if spec.from_step == 0:
        return None
    candidates = [checkpoint for checkpoint in usable_checkpoints(recorded) if checkpoint.step == spec.from_step]
    if not candidates:
        raise UsageError(f"the run has no complete checkpoint of step {spec.from_step}; {_available(recorded)}")
    checkpoint = min(candidates, key=lambda checkpoint: checkpoint.parameters_only)
    return (_finite(recorded, checkpoint) if finite else checkpoint).path


def _finite(recorded: RecordedRun, checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint. Raises UsageError where it is not finite: no replay from it shows what caused that."""
    health = health_in(recorded.run).of(checkpoint, whole=True)
    if health.state == "not finite":
        earlier = newest_healthy(recorded, checkpoint.step)
        start = "from scratch: --from-step 0"
        if earlier is not None:
            start = f"from the newest finite one before it: --from-step {earlier.step}"
        name = plain(f"{checkpoint.path.parent.name}/{checkpoint.path.name}", 300)
        raise UsageError(f"{name} {health.text}; the damage is older than it, so replay {start}")
    return checkpoint


def newest_healthy(recorded: RecordedRun, last: int) -> Checkpoint | None:
    """The newest rollback or recovery checkpoint of step `last` or before that is finite and does not reset the
    optimizer; None if there is none. It is looked at whatever its size is: a replay reads it anyway."""
    health = health_in(recorded.run)
    candidates = sorted(usable_checkpoints(recorded), key=lambda c: (c.step, not c.parameters_only), reverse=True)
    return next((c for c in candidates if c.step <= last and health.of(c, whole=True).healthy), None)


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
