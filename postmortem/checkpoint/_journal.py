"""What checkpoints need of whoever keeps the run's journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Journal(Protocol):
    """Where saves, deletions and resumes are told. `postmortem.record.Recorder` is one.

    `event` is called from the thread that writes checkpoints as well as from the training thread.
    """

    @property
    def path(self) -> Path:
        """The run directory."""
        ...

    @property
    def rank(self) -> int:
        """Rank of this process."""
        ...

    def event(self, event: str, step: int | None = None, **keys: Any) -> None:
        """Append one event."""
        ...


class CheckpointWarning(UserWarning):
    """A save that failed, a checkpoint that was refused, or a restore that resets the optimizer."""
