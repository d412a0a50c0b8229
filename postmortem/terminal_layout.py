"""Lays out text for a terminal: styled lines, wrapped to its width, as paragraphs, labeled lines and tables.

Without a width, as in a pipe, nothing is wrapped and rich is not imported.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.segment import Segment
    from rich.text import Text

LABEL = 8  # columns of a label and the space behind it
_GAP = "  "  # between the columns of a table
_NARROWEST = 20  # columns of a paragraph
_ASCII = str.maketrans({"→": "->", "–": "-", "…": "~", "±": "+/-", "−": "-", "·": "*", "×": "x"})


@dataclass(frozen=True)
class Span:
    """Text with the rich style it takes on a terminal that shows styles."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


def wrap(text: str | Line, width: int | None, *, head: Line = (), hang: int = 0) -> list[Line]:
    """`text` behind `head` in lines of at most `width` columns. Further lines are indented as deep as the first, and
    `hang` columns deeper."""
    line = (Span(text),) if isinstance(text, str) else text
    if width is None:
        return [(*head, *line)]
    indent = sum(len(span.text) for span in head)
    console = _console(width)
    room = max(_NARROWEST, width - indent - hang)
    pieces = _text(line).wrap(console, room, overflow="fold")
    deeper = Span(" " * (indent + hang))
    first, *rest = (_spans(piece.render(console)) for piece in pieces)
    return [(*head, *first), *((deeper, *piece) for piece in rest)]


def labeled(
    label: str, text: str, width: int | None, *, style: str = "", column: int = LABEL, hang: int = 0
) -> list[Line]:
    """`text` beside a label in a column of `column` characters; below it on a terminal where there is no room beside
    it."""
    if width is not None and (len(label) >= column or width - column - hang < _NARROWEST):
        above = wrap((Span(label, style),), width) if label else []
        return [*above, *wrap(text, width, head=(Span(_GAP),), hang=hang)]
    return wrap(text, width, head=(Span(f"{label:<{column}}", style),), hang=hang)


def table(rows: Sequence[Sequence[str | Span]], width: int | None, *, right: Collection[int] = ()) -> list[Line]:
    """`rows` in columns without rules, those of `right` flush right. Where they do not fit `width`, the widest columns
    are wrapped."""
    cells = [[cell if isinstance(cell, Span) else Span(cell) for cell in row] for row in rows]
    if width is None:
        return _padded(cells, right)
    from rich.table import Table

    grid = Table(box=None, show_header=False, show_edge=False, pad_edge=False, padding=(0, len(_GAP), 0, 0))
    for number in range(len(cells[0])):
        grid.add_column(justify="right" if number in right else "left", overflow="fold")
    for row in cells:
        grid.add_row(*(_text((cell,)) for cell in row))
    console = _console(width)
    return [_spans(segments) for segments in console.render_lines(grid, pad=False)]


def in_ascii(line: Line) -> Line:
    """`line` with its arrows, dashes and signs in ASCII; names stay as they are."""
    return tuple(Span(span.text.translate(_ASCII), span.style) for span in line)


def joined(line: Line) -> str:
    """`line` without its styles."""
    return "".join(span.text for span in line).rstrip()


def _padded(rows: Sequence[Sequence[Span]], right: Collection[int]) -> list[Line]:
    widths = [max(len(row[number].text) for row in rows) for number in range(len(rows[0]))]
    lines: list[Line] = []
    for row in rows:
        line: list[Span] = []
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            text = cell.text.rjust(width) if number in right else cell.text.ljust(width)
            line += [Span(text, cell.style), Span(_GAP)]
        lines.append(tuple(line[:-1]))
    return lines


def _console(width: int) -> Console:
    """What measures and wraps; it prints nothing."""
    from rich.console import Console

    return Console(file=io.StringIO(), width=width, legacy_windows=False, color_system=None)


def _text(line: Line) -> Text:
    from rich.text import Text

    return Text.assemble(*((span.text, span.style) for span in line))


def _spans(segments: Iterable[Segment]) -> Line:
    return tuple(
        Span(text, str(style) if style else "") for text, style, control in segments if text.strip("\n") and not control
    )
