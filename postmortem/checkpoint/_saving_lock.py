"""The lock of a run's checkpoints: one process, or one group of ranks, may save at a time."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from postmortem.atomic import try_lock
from postmortem.errors import UsageError
from postmortem.text import plain


class SavingLock:
    """The right to save checkpoints into `run` and to remove them: a lock on the directory itself. It leaves no file
    behind, and the system releases it when the process ends, in whatever way."""

    def __init__(self, run: Path) -> None:
        """Raises UsageError if another process or Checkpointer has it."""
        self.release = lambda: None
        try:
            handle = os.open(run, os.O_RDONLY)
        except OSError:  # no such directory yet, or no right to read it: the first save reports that
            return
        self.release = weakref.finalize(self, os.close, handle)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.release)  # a worker must not keep it when its parent dies
        if try_lock(handle) is False:
            self.release()
            raise UsageError(
                f"{plain(run, 1000)}: another process, or another Checkpointer, saves checkpoints here. Give this run "
                "another directory, end that process, or close that Checkpointer"
            )
