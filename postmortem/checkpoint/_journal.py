"""The interface of the run's journal that checkpoints need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Journal(Protocol):
    """Takes the events about saves, deletions and resumes. `postmortem.record.Recorder` is one.

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

    def flush(self) -> None:
        """Write the rows of every step so far: a checkpoint must not survive a crash that loses rows before it."""
        ...

    def state_hashes(self, tensors: Mapping[str, Tensor], /) -> Mapping[str, str]:
        """Group → hash of this rank's bytes, stored with every checkpoint."""
        ...


class CheckpointWarning(UserWarning):
    """A save failed, a checkpoint was refused, or a restore resets the optimizer."""


class NotFinite(CheckpointWarning):
    """A checkpoint was saved that has NaN or infinite elements."""
