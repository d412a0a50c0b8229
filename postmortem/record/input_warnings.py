"""The recorder's warnings about what it was given: each is reported once, as a warning or as an error."""

from __future__ import annotations

import warnings
from collections import deque
from pathlib import Path

from postmortem.errors import CannotWrite, PostmortemError, UsageError
from postmortem.text import plain


class RecordingError(CannotWrite):
    """The recorder cannot write, and `on_error="raise"` makes that an error."""


class RecordingWarning(UserWarning):
    """The recorder cannot write what it was given; the training goes on."""


class InputWarnings:
    """Collects warnings from any thread in `pending`, and reports them in the thread that calls `report`."""

    def __init__(self, path: Path, *, raises: bool) -> None:
        """`path` is the run that is recorded; with `raises`, the next call raises an error instead of warning."""
        self.pending: deque[PostmortemError | OSError | str] = deque()
        self._topics: set[str] = set()
        self._path, self._raises = path, raises

    def add(self, topic: str, problem: UsageError | str) -> None:
        """Add a problem with what was handed over; only the first problem of each topic is reported."""
        if topic not in self._topics:
            self._topics.add(topic)
            self.pending.append(UsageError(problem) if isinstance(problem, str) else problem)

    def report(self) -> None:
        """Report what went wrong since the last call. Call this from what the user calls: the warning names its caller.

        Raises:
            UsageError, RecordingError: the first problem, with `raises`.
        """
        while self.pending:
            problem = self.pending.popleft()
            if self._raises:
                if isinstance(problem, UsageError):
                    raise problem
                raise RecordingError(f"{plain(self._path, 1000)}: {plain(problem, 1000)}")
            warnings.warn(
                f"recording {plain(self._path, 1000)}: {plain(problem, 1000)}", RecordingWarning, stacklevel=3
            )
