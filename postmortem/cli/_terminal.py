"""What a stream can show, and how to show it: rich on a terminal, plain text everywhere else."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

import typer

from postmortem.text import plain

if TYPE_CHECKING:
    from rich.status import Status

    from postmortem.report.summary import Line

WIDEST = 100  # columns: longer lines are hard to read, however wide the terminal


def styled(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that wants styles: NO_COLOR and TERM=dumb mean none at all, not even bold."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width(stream: TextIO) -> int | None:
    """Columns to wrap at; None in a pipe, where nothing is wrapped."""
    return min(WIDEST, max(40, shutil.get_terminal_size().columns)) if stream.isatty() else None


def encodes(stream: TextIO, text: str = "█▏→–…") -> bool:
    """Whether `stream` can show `text`."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def show(lines: Iterable[Line]) -> None:
    """Print lines on stdout."""
    if not styled(sys.stdout):
        for line in lines:
            typer.echo("".join(span.text for span in line).rstrip())
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in lines:
        console.print(Text.assemble(*((span.text, span.style) for span in line)), soft_wrap=True)


def show_markdown(text: str) -> None:
    """Print a Markdown text: laid out on a terminal, as it is in a pipe."""
    if not styled(sys.stdout):
        typer.echo(text.rstrip())
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(width=width(sys.stdout)).print(Markdown(text))


class Stage:
    """What is going on, on stderr. Called with a text, it says what goes on next."""

    def __init__(self, status: Status | None = None) -> None:
        self._status = status

    def __call__(self, text: str) -> None:
        """Say what goes on now."""
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(plain(text, 1000)))

    @contextmanager
    def aside(self) -> Generator[None]:
        """Out of the way while something is printed."""
        if self._status is not None:
            self._status.stop()
        yield
        if self._status is not None:
            self._status.start()


@contextmanager
def stage(text: str) -> Generator[Stage]:
    """Say on stderr what is going on while it goes on, and what next when called; nothing where it is no terminal."""
    if not styled(sys.stderr):
        yield Stage()
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(plain(text, 1000)), refresh_per_second=4) as status:
        yield Stage(status)


class Advance(Protocol):
    """Moves a bar to a step. `was` is the loss that another run had there."""

    def __call__(self, step: int, steps: int, loss: float | None = None, was: float | None = None) -> None:
        """`step` of `steps` is done."""
        ...


@contextmanager
def progress(text: str) -> Generator[Advance]:
    """A bar on stderr, moved by calling (step, steps, loss, was); nothing where stderr is no terminal."""
    if not styled(sys.stderr):
        yield lambda step, steps, loss=None, was=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task(text, total=None, told="")

        def advance(step: int, steps: int, loss: float | None = None, was: float | None = None) -> None:
            told = ("" if loss is None else f"loss {loss:.3f}") + ("" if was is None else f" (was {was:.3f})")
            bar.update(task, completed=step + 1, total=steps, told=told)

        yield advance
