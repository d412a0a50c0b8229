"""A diff on a terminal: the runs, the verdict, the first facts, and then the rest under their headings."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from postmortem.diff.model import RunsDiff, Side, Verdict
from postmortem.diff.words import Section, run_line, sections
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
    lines += labelled(d.verdict, (d.reason,), width, STYLES[d.verdict])
    if d.top_lines:
        lines += [(), *(line for fact in d.top_lines for line in _hung(fact, width))]
    lines.append(())
    for section in sections(d, everything):
        lines += _section(section, width)
    return tuple(fitted(line, width, unicode) for line in lines)


def labelled(
    title: str, texts: Sequence[str], width: int | None, style: str = "bold", label: int = LABEL
) -> list[Line]:
    """A title in a column of `label` characters, and beside it the texts, each wrapped with a hanging indent."""
    lines: list[Line] = []
    for text in texts:
        room = None if width is None else max(20, width - label)
        for part in [text] if room is None else textwrap.wrap(text, room, subsequent_indent="  ") or [""]:
            lines.append((Span(f"{'' if lines else title:<{label}}", style), Span(part)))
    return lines


def fitted(line: Line, width: int | None, unicode: bool) -> Line:
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


def _run(letter: str, side: Side, widest: int) -> Line:
    name = plain(side.id, widest)
    return Span(f"{letter}  ", "bold"), Span(f"{name:<{widest}}", "bold"), Span(f"  {run_line(side)}", "dim")


def _section(section: Section, width: int | None) -> list[Line]:
    return labelled(section.title, section.lines, width)


def _hung(text: str, width: int | None) -> list[Line]:
    return [(Span(part),) for part in ([text] if width is None else textwrap.wrap(text, width, subsequent_indent="  "))]
