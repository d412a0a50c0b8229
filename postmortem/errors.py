"""The one family of errors a user may see, each with the exit code its command ends with.

    PostmortemError            70   our own bug, unless a subclass says otherwise
    ├── UsageError              2   the call's words are off
    │   └── MissingExtra        2   an optional part is not installed
    ├── BrokenPlugin            2   a part that another distribution adds cannot be used
    └── UnreadableInput         3   the run, or a file of it, cannot be read

A message says what is wrong, where (file and line), and what to do next. It is one line: nobody reads a traceback at
3 a.m.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path


class PostmortemError(Exception):
    """Base of all errors that are shown to a user as one message."""

    exit_code = 70


class UsageError(PostmortemError):
    """The command was called in a way that cannot be carried out."""

    exit_code = 2


class MissingExtra(UsageError):
    """A feature needs an optional dependency; the message is the command that installs it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the '{extra}' extra. Install it: pip install 'training-postmortem[{extra}]'")


def require(feature: str, extra: str, *modules: str) -> None:
    """Raise MissingExtra where one of `modules`, which `feature` needs and `extra` installs, cannot be imported."""
    if not all(importlib.util.find_spec(module) for module in modules):
        raise MissingExtra(feature, extra)


class BrokenPlugin(PostmortemError):
    """A part that another installed distribution adds cannot be used; without it a report would silently be another."""

    exit_code = 2


class UnreadableInput(PostmortemError):
    """Input that cannot be read at all (what can be read around is a note in the report instead)."""

    exit_code = 3

    def __init__(self, what: str, *, file: str | Path, line: int | None = None, hint: str = "") -> None:
        """`file` and `line` (1-based) say where; `hint` says what to do next."""
        where = f"{file}:{line}" if line is not None else f"{file}"
        super().__init__(f"{where}: {what}" + (f" {hint}" if hint else ""))
        self.file, self.line = Path(file), line
