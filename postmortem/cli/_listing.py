"""Tables of text, and a bar for reading that takes long."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TextIO

import typer

from postmortem.cli._terminal import styled

_NARROWEST = 14  # columns of the column that gives way
_GAP = "  "
_LONG = 100e6  # bytes that take a moment to read


def room(stream: TextIO) -> int | None:
    """Columns that a table may take; None in a pipe, where nothing is wrapped."""
    return max(40, shutil.get_terminal_size().columns) if stream.isatty() else None


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), flexible: int, room: int | None) -> list[str]:
    """`rows` (the first is the head) in columns, numbers in the columns `right` flush right. The column `flexible` is
    wrapped where the table is wider than `room`."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    if room is not None:
        surplus = sum(widths) + len(_GAP) * (len(widths) - 1) - room
        widths[flexible] = max(min(_NARROWEST, widths[flexible]), widths[flexible] - max(0, surplus))
    lines: list[str] = []
    for row in rows:
        parts = textwrap.wrap(row[flexible], widths[flexible]) or [""]
        for number, part in enumerate(parts):
            cells = [part if i == flexible else cell if not number else "" for i, cell in enumerate(row)]
            sized = enumerate(zip(cells, widths, strict=True))
            placed = (cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in sized)
            lines.append(_GAP.join(placed).rstrip())
    return lines


def wrapped(text: str, room: int | None, indent: str) -> list[str]:
    """`text` behind `indent`, further lines indented as deep."""
    if room is None:
        return [indent + text]
    deeper = " " * len(indent)
    return textwrap.wrap(text, room, initial_indent=indent, subsequent_indent=deeper, break_on_hyphens=False)


def tell(label: str, text: str, *, err: bool = False) -> None:
    """`text` behind a label of up to eight columns, wrapped below itself on a terminal."""
    for line in labelled(label, text, sys.stderr if err else sys.stdout):
        typer.echo(line, err=err)


def labelled(label: str, text: str, stream: TextIO) -> list[str]:
    """The lines that `tell` prints."""
    first, *rest = wrapped(text, room(stream), " " * 8) or [" " * 8]
    return [f"{label:<8}{first[8:]}", *rest]


@contextmanager
def reading(text: str) -> Generator[Callable[[int, int], None]]:
    """A bar on stderr, moved by calling (bytes read, bytes in all); nothing where stderr is no terminal, or where it
    would be gone before anybody saw it."""
    if not styled(sys.stderr):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as bar:
        task = bar.add_task(text, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=total > _LONG)
