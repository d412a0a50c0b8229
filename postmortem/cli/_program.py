"""Driving somebody's program from the command line: what is said beside it, and Ctrl-C."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import typer

from postmortem.errors import PostmortemError
from postmortem.text import plain


class Interrupted(PostmortemError):
    """Ctrl-C, with a word about what was left behind."""

    exit_code = 130


@contextmanager
def notes(*, told: bool) -> Generator[None]:
    """Our own warnings as lines of stderr, where they are `told`; those of others as they are."""
    from postmortem.checkpoint import CheckpointWarning
    from postmortem.record.input_warnings import RecordingWarning

    with warnings.catch_warnings():
        theirs = warnings.showwarning
        warnings.simplefilter("always", CheckpointWarning)
        warnings.simplefilter("always", RecordingWarning)

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if not issubclass(category, (CheckpointWarning, RecordingWarning)):
                theirs(message, category, *rest, **more)
            elif told:
                typer.echo(f"note    {plain(message, 1000)}", err=True)

        warnings.showwarning = show
        yield
