"""What checkpoints need of whoever keeps the run's journal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


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

    def flush(self) -> None:
        """Write the rows of every step so far: they must not be lost where a checkpoint behind them is not."""
        ...

    def state_hashes(self, tensors: Mapping[str, Tensor], /) -> Mapping[str, str]:
        """Group → hash of the bytes that this rank holds, kept with every checkpoint."""
        ...


class CheckpointWarning(UserWarning):
    """A save that failed, a checkpoint that was refused, or a restore that resets the optimizer."""
