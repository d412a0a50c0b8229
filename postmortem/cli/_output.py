"""What commands print: lines, labeled lines, tables, Markdown, JSON."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from postmortem.cli._terminal import columns, styled, text_width
from postmortem.jsonio import strict_json
from postmortem.terminal_layout import LABEL, Line, Span, joined, labeled, table
from postmortem.text import plain, relative_path


def print_lines(lines: Iterable[Line]) -> None:
    """Print lines on stdout, styled where stdout is a terminal that shows styles."""
    if not styled(sys.stdout):
        for line in lines:
            typer.echo(joined(line))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in lines:
        console.print(Text.assemble(*((span.text, span.style) for span in line)), soft_wrap=True)


def print_labeled(label: str, text: str, *, err: bool = False) -> None:
    """Print `text` behind a label of up to eight columns, wrapped below itself on a terminal."""
    for line in labeled(label, text, text_width(sys.stderr if err else sys.stdout)):
        typer.echo(joined(line), err=err)


def print_location(label: str, text: str, *, err: bool = False) -> None:
    """Print a path or a command behind its label, always on one line: people copy it."""
    typer.echo(f"{label:<{LABEL}}{text}", err=err)


def print_table(rows: Sequence[Sequence[str | Span]], *, right: Collection[int] = ()) -> None:
    """Print `rows` in columns, those of `right` flush right, as wide as the terminal at most."""
    print_lines(table(rows, columns(sys.stdout), right=right))


def print_markdown(text: str) -> None:
    """Print Markdown: laid out on a terminal, unchanged in a pipe."""
    if not styled(sys.stdout):
        typer.echo(text.rstrip())
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(width=text_width(sys.stdout)).print(Markdown(text))


def print_json(value: Any) -> None:
    """Print a record as strict JSON: non-finite numbers are the strings "NaN", "Infinity" and "-Infinity"."""
    typer.echo(strict_json(value), nl=False)


def display_path(path: Path) -> str:
    """A path as the user would type it: relative to the current directory where it is below that."""
    return plain(relative_path(path.absolute(), Path.cwd()), 1000)
