"""The one family of errors that a user may see: one class for each exit code of a command.

    0                       done
    1    CheckFailed        the answer of a check or a test is no
    2    UsageError         the command was called wrongly
           MissingExtra     an optional part is not installed
           BrokenPlugin     a part that another distribution adds cannot be used
    3    UnreadableInput    the input, or a file of it, cannot be read
    4    CannotWrite        a result cannot be written
    5    NotReproduced      a replay is not the run
    6    NothingToVerify    an incident needs no fix, so that no run can show one
    70   InternalError      a defect of postmortem itself
    130  Interrupted        Ctrl-C

Rooms derive their own errors from these classes; none has an exit code of its own. A message says what is wrong, where
(file and line), and what to do next. It is one line: nobody reads a traceback at 3 a.m.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import ClassVar


class PostmortemError(Exception):
    """Base of all errors that are shown to a user as one message."""

    exit_code: ClassVar[int] = 70


class CheckFailed(PostmortemError):
    """The answer of a check or a test is no. The command has printed it; there is no further message."""

    exit_code = 1


class UsageError(PostmortemError):
    """The command was called in a way that cannot be carried out."""

    exit_code = 2


class MissingExtra(UsageError):
    """A feature needs an optional dependency; the message is the command that installs it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the '{extra}' extra: pip install '.[{extra}]' in the clone, "
            f"or 'training-postmortem[{extra}]' once it is published"
        )


def require(feature: str, extra: str, *modules: str) -> None:
    """Raise MissingExtra if one of `modules`, which `feature` needs and `extra` installs, cannot be imported."""
    if not all(importlib.util.find_spec(module) for module in modules):
        raise MissingExtra(feature, extra)


class BrokenPlugin(UsageError):
    """A part that another installed distribution adds cannot be used; without it, reports would differ silently."""


class UnreadableInput(PostmortemError):
    """Input that cannot be read at all (what can be read around is a note in the report instead)."""

    exit_code = 3

    def __init__(self, what: str, *, file: str | Path | None = None, line: int | None = None, hint: str = "") -> None:
        """`file` and `line` (1-based) say where; `hint` says what to do next. Without `file`, `what` says it all."""
        where = "" if file is None else f"{file}: " if line is None else f"{file}:{line}: "
        super().__init__(f"{where}{what}" + (f" {hint}" if hint else ""))
        self.file, self.line = None if file is None else Path(file), line


class CannotWrite(PostmortemError):
    """A result cannot be written: the disk is full, or the place belongs to somebody else."""

    exit_code = 4


class NotReproduced(PostmortemError):
    """A replay is not the run: the data changed, or its bits differ and should not."""

    exit_code = 5


class NothingToVerify(PostmortemError):
    """The cause of an incident is harmless: nothing has to change, so that there is no fix to verify."""

    exit_code = 6


class InternalError(PostmortemError):
    """A defect of postmortem itself, or a broken installation of it."""

    exit_code = 70


class Interrupted(PostmortemError):
    """Ctrl-C. The message says what remains, and how to continue."""

    exit_code = 130


def error_class(exit_code: int) -> type[PostmortemError]:
    """The class of an exit code: what another process ended with can be raised again here."""
    return next(kind for kind in PostmortemError.__subclasses__() if kind.exit_code == exit_code)
