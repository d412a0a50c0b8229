"""A diff as a Markdown page. Everything that a run's maker could have written is escaped."""

from __future__ import annotations

from postmortem.diff.model import RunsDiff
from postmortem.diff.words import run_line, sections
from postmortem.report.markdown import Safe, code, escape, table


def page(d: RunsDiff, *, everything: bool, picture: str) -> str:
    """The page, with the `picture` of that path in it ("": none)."""
    rows = [(Safe(f"**{letter}**"), code(side.id), run_line(side)) for letter, side in (("a", d.a), ("b", d.b))]
    parts = [
        Safe(f"# Diff of {code(d.a.id)} and {code(d.b.id)}"),
        Safe(f"**{d.verdict}**: {escape(d.reason)}."),
        Safe("\n".join(f"- {escape(line)}" for line in d.top_lines)),
        table(("", "run", ""), rows),
        Safe(f"![Loss of both runs, and the gap between them]({picture})" if picture else ""),
    ]
    for section in sections(d, everything):
        lines = "\n".join(f"- {escape(line)}" for line in section.lines)
        parts.append(Safe(f"## {section.title}\n\n{lines}"))
    parts.append(Safe(f"*{escape(d.tool)}. A gap is b − a; windows of batches are half-open.*"))
    return "\n\n".join(part for part in parts if part) + "\n"
