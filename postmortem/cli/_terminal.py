"""What a stream can show, and the progress that a terminal shows on stderr: stages and bars, drawn by rich."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from postmortem.text import plain

if TYPE_CHECKING:
    from rich.status import Status

NARROWEST, WIDEST = 40, 100  # columns of text: longer lines are hard to read, however wide the terminal
_LARGE = 100e6  # bytes that take a moment to read


def styled(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that wants styles: NO_COLOR and TERM=dumb mean none at all, not even bold."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def columns(stream: TextIO) -> int | None:
    """Columns of a terminal, which a table may fill; None in a pipe, where nothing is wrapped."""
    return max(NARROWEST, shutil.get_terminal_size().columns) if stream.isatty() else None


def text_width(stream: TextIO) -> int | None:
    """Columns that text is wrapped to; None in a pipe."""
    width = columns(stream)
    return None if width is None else min(WIDEST, width)


def encodes(stream: TextIO, text: str = "█▏→–…") -> bool:
    """Whether `stream` can show `text`."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


class Stage:
    """The line on stderr that says what the command is doing. Call it with a text when the next stage begins."""

    def __init__(self, status: Status | None = None) -> None:
        self._status = status

    def __call__(self, text: str) -> None:
        """Show what the command does now."""
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(plain(text, 1000)))

    @contextmanager
    def aside(self) -> Generator[None]:
        """Hide the line while something is printed."""
        if self._status is not None:
            self._status.stop()
        yield
        if self._status is not None:
            self._status.start()


@contextmanager
def stage(text: str) -> Generator[Stage]:
    """Show on stderr what the command is doing; nothing where stderr is no terminal."""
    if not styled(sys.stderr):
        yield Stage()
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(plain(text, 1000)), refresh_per_second=4) as status:
        yield Stage(status)


class Advance(Protocol):
    """Moves a bar to a step. `was` is the loss that the run had recorded there."""

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

    parts = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[losses]}"))
    console = Console(stderr=True)
    with Progress(*parts, TimeRemainingColumn(), console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task(text, total=None, losses="")

        def advance(step: int, steps: int, loss: float | None = None, was: float | None = None) -> None:
            losses = ("" if loss is None else f"loss {loss:.3f}") + ("" if was is None else f" (was {was:.3f})")
            bar.update(task, completed=step + 1, total=steps, losses=losses)

        yield advance


@contextmanager
def reading(text: str) -> Generator[Callable[[int, int], None]]:
    """A bar on stderr, moved by calling (bytes read, bytes in total); nothing where stderr is no terminal, or where the
    bar would disappear at once."""
    if not styled(sys.stderr):
        yield lambda count, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    parts = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*parts, console=Console(stderr=True), transient=True, refresh_per_second=4) as bar:
        task = bar.add_task(text, total=None, visible=False)
        yield lambda count, total: bar.update(task, completed=count, total=total, visible=total > _LARGE)
