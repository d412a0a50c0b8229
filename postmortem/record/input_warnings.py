"""What a recorder has to say about what it was given, and how it says it: once each, as a warning or as an error."""

from __future__ import annotations

import warnings
from collections import deque
from pathlib import Path

from postmortem.errors import CannotWrite, PostmortemError, UsageError
from postmortem.text import plain


class RecordingError(CannotWrite):
    """The recorder cannot write, and `on_error="raise"` asked to hear of it."""


class RecordingWarning(UserWarning):
    """The recorder cannot write what it was given; the training goes on."""


class InputWarnings:
    """Collects trouble from any thread in `unsaid`, and says it in the thread that calls `speak`."""

    def __init__(self, path: Path, *, raises: bool) -> None:
        """`path` is the run spoken of; with `raises`, trouble is an error of the next call instead of a warning."""
        self.unsaid: deque[PostmortemError | OSError | str] = deque()
        self._about: set[str] = set()
        self._path, self._raises = path, raises

    def add(self, about: str, wrong: UsageError | str) -> None:
        """Note what is `wrong` with what was handed over; of each `about` only the first is said."""
        if about not in self._about:
            self._about.add(about)
            self.unsaid.append(UsageError(wrong) if isinstance(wrong, str) else wrong)

    def speak(self) -> None:
        """Say what went wrong since the last call. To be called by what the user calls, whose caller is named.

        Raises:
            UsageError, RecordingError: the first trouble, where that was asked for.
        """
        while self.unsaid:
            said = self.unsaid.popleft()
            if self._raises:
                if isinstance(said, UsageError):
                    raise said
                raise RecordingError(f"{plain(self._path, 1000)}: {plain(said, 1000)}")
            warnings.warn(f"recording {plain(self._path, 1000)}: {plain(said, 1000)}", RecordingWarning, stacklevel=3)
