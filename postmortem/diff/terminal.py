"""Writes a diff as terminal lines: the runs, the verdict, the first facts, then everything else under headings.

Of several diffs: a table, and the first facts of each.
"""

from __future__ import annotations

from collections.abc import Sequence

from postmortem.diff.model import ManyRunsDiff, RunsDiff, RunSummary, Verdict
from postmortem.diff.wording import HEADS, facts, row, run_line, sections
from postmortem.terminal_layout import Line, Span, in_ascii, labeled, table, wrap
from postmortem.text import plain

STYLES: dict[Verdict, str] = {
    "identical": "bold green",
    "prefix": "bold yellow",
    "equivalent": "bold green",
    "transient": "bold green",
    "recovered": "bold green",
    "lingering": "bold yellow",
    "different": "bold red",
}
LABEL = 12  # characters of the column of headings
LONGEST_NAME, SHORT_NAME = 40, 24  # of a run, in a pipe; a terminal wraps whole names
_HANG = 2


def summarize(d: RunsDiff, *, width: int | None, unicode: bool, everything: bool) -> tuple[Line, ...]:
    """The lines of one diff, no wider than `width` (None: not wrapped); without `unicode`, in ASCII but for names."""
    lines = [*table([_run("a", d.a, width), _run("b", d.b, width)], width), ()]
    lines += _labeled(d.verdict, (d.reason,), width, STYLES[d.verdict])
    if d.top_lines:
        lines += [(), *(line for fact in d.top_lines for line in wrap(fact, width, hang=_HANG))]
    lines.append(())
    for section in sections(d, everything):
        lines += _labeled(section.title, section.lines, width)
    return tuple(lines if unicode else map(in_ascii, lines))


def tabulate(c: ManyRunsDiff, *, width: int | None, unicode: bool, everything: bool) -> tuple[Line, ...]:
    """The lines of several diffs, as `summarize` makes those of one; `everything` adds each diff in full."""
    first = c.diffs[0].a
    head = (Span("a  "), Span(plain(first.id, 60), "bold"), Span(f"  {run_line(first)}", "dim"))
    rows = [[Span(name, "dim") for name in HEADS], *map(_cells, c.diffs)]
    lines = [*wrap(head, width, hang=_HANG), (), *table(rows, width), ()]
    column = min(max(len(cells[0].text) for cells in rows), SHORT_NAME) + 2
    for d in c.diffs:
        lines += _labeled(_name(d.b, column - 2, width), facts(d), width, column=column)
    if everything:
        for d in c.diffs:
            lines += [(), *summarize(d, width=width, unicode=unicode, everything=True)]
    return tuple(lines if unicode else map(in_ascii, lines))


def _cells(d: RunsDiff) -> list[Span]:
    name, verdict, *figures = row(d)
    return [Span(name, "bold"), Span(verdict, STYLES[d.verdict]), *map(Span, figures)]


def _run(letter: str, side: RunSummary, width: int | None) -> tuple[Span, ...]:
    name = _name(side, LONGEST_NAME, width)
    return Span(letter, "bold"), Span(name, "bold"), Span(run_line(side), "dim")


def _name(side: RunSummary, limit: int, width: int | None) -> str:
    return plain(side.id, limit) if width is None else plain(side.id)


def _labeled(
    title: str, texts: Sequence[str], width: int | None, style: str = "bold", column: int = LABEL
) -> list[Line]:
    """A title, and beside it the texts, each wrapped with a hanging indent."""
    lines: list[Line] = []
    for text in texts:
        lines += labeled("" if lines else title, text, width, style=style, column=column, hang=_HANG)
    return lines
