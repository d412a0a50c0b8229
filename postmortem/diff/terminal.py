"""A diff on a terminal: the runs, the verdict, the first facts, and then the rest under their headings.

Of several, a table, and the first facts of each.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from postmortem.diff.model import ManyRunsDiff, RunsDiff, RunSummary, Verdict
from postmortem.diff.wording import HEADS, Section, facts, row, run_line, sections
from postmortem.report.summary import Line, Span
from postmortem.text import plain

STYLES: dict[Verdict, str] = {
    "identical": "bold green",
    "equivalent": "bold green",
    "recovered": "bold green",
    "lingering": "bold yellow",
    "different": "bold red",
}
LABEL = 12
_ASCII = str.maketrans({"→": "->", "–": "-", "…": "~", "±": "+/-", "−": "-", "·": "*", "×": "x"})


def summarize(d: RunsDiff, *, width: int | None, unicode: bool, everything: bool) -> tuple[Line, ...]:
    """The lines of one diff, no wider than `width` (None: not wrapped); without `unicode`, in ASCII but for names."""
    widest = max(len(d.a.id), len(d.b.id))
    widest = min(widest, 40 if width is None else width // 2)
    lines: list[Line] = [_run("a", d.a, widest), _run("b", d.b, widest), ()]
    lines += _labelled(d.verdict, (d.reason,), width, STYLES[d.verdict])
    if d.top_lines:
        lines += [(), *(line for fact in d.top_lines for line in _hung(fact, width))]
    lines.append(())
    for section in sections(d, everything):
        lines += _section(section, width)
    return tuple(_fitted(line, width, unicode) for line in lines)


def tabulate(c: ManyRunsDiff, *, width: int | None, unicode: bool, everything: bool) -> tuple[Line, ...]:
    """The lines of several diffs, as `summarize` makes those of one; `everything` adds each in full."""
    first = c.diffs[0].a
    lines: list[Line] = [(Span("a  "), Span(plain(first.id, 60), "bold"), Span(f"  {run_line(first)}", "dim")), ()]
    rows = [HEADS, *(row(d) for d in c.diffs)]
    wide = [max(len(cells[i]) for cells in rows) for i in range(len(HEADS))]
    if width is not None:  # of a long name less is shown, and all of the figures
        wide[0] = max(8, min(wide[0], width - sum(w + 2 for w in wide[1:])))
    for cells, d in zip(rows, (None, *c.diffs), strict=True):
        styles = ["dim"] * len(cells) if d is None else ["bold", STYLES[d.verdict], *[""] * (len(cells) - 2)]
        padded = [f"{plain(cell, w):<{w}}" for cell, w in zip(cells, wide, strict=True)]
        spans = [(Span(cell, style), Span("  ")) for cell, style in zip(padded, styles, strict=True)]
        lines.append(tuple(span for two in spans for span in two)[:-1])
    lines.append(())
    beside = min(wide[0], 24) + 2
    for d in c.diffs:
        lines += _labelled(plain(d.b.id, beside - 2), facts(d), width, label=beside)
    if everything:
        for d in c.diffs:
            lines += [(), *summarize(d, width=width, unicode=unicode, everything=True)]
    return tuple(_fitted(line, width, unicode) for line in lines)


def _labelled(
    title: str, texts: Sequence[str], width: int | None, style: str = "bold", label: int = LABEL
) -> list[Line]:
    """A title in a column of `label` characters, and beside it the texts, each wrapped with a hanging indent."""
    lines: list[Line] = []
    for text in texts:
        room = None if width is None else max(20, width - label)
        for part in [text] if room is None else textwrap.wrap(text, room, subsequent_indent="  ") or [""]:
            lines.append((Span(f"{'' if lines else title:<{label}}", style), Span(part)))
    return lines


def _fitted(line: Line, width: int | None, unicode: bool) -> Line:
    """The line cut to `width` characters, its signs in ASCII where they must be."""
    out: list[Span] = []
    left = width
    for span in line:
        text = span.text if unicode else span.text.translate(_ASCII)
        if left is not None:
            text = text if len(text) <= left else text[: max(0, left - 1)] + ("…" if unicode else "~") * bool(left)
            left -= len(text)
        out.append(Span(text, span.style))
    return tuple(out)


def _run(letter: str, side: RunSummary, widest: int) -> Line:
    name = plain(side.id, widest)
    return Span(f"{letter}  ", "bold"), Span(f"{name:<{widest}}", "bold"), Span(f"  {run_line(side)}", "dim")


def _section(section: Section, width: int | None) -> list[Line]:
    return _labelled(section.title, section.lines, width)


def _hung(text: str, width: int | None) -> list[Line]:
    return [(Span(part),) for part in ([text] if width is None else textwrap.wrap(text, width, subsequent_indent="  "))]
