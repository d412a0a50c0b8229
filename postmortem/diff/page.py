"""Renders one diff or several as a Markdown page. All text that comes from a run is escaped."""

from __future__ import annotations

from postmortem.diff.model import ManyRunsDiff, RunsDiff
from postmortem.diff.wording import HEADS, facts, row, run_line, sections
from postmortem.report.markdown import Safe, code, escape, table


def page(d: RunsDiff, *, everything: bool, picture: str) -> str:
    """The page of one diff; `picture` is the path of its picture ("": none)."""
    rows = [(Safe(f"**{letter}**"), code(run.id), run_line(run)) for letter, run in (("a", d.a), ("b", d.b))]
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


def table_page(c: ManyRunsDiff, *, everything: bool, picture: str) -> str:
    """The table of several diffs and the first facts of each; `everything` adds each diff in full."""
    first = c.diffs[0].a
    parts = [
        f"# Runs against {code(first.id)}",
        escape(run_line(first)),
        table(HEADS, [[code(d.b.id), Safe(f"**{d.verdict}**"), *row(d)[2:]] for d in c.diffs]),
        f"![Loss of all runs]({picture})" if picture else "",
        "\n".join(f"- {code(d.b.id)}: {escape(fact)}" for d in c.diffs for fact in facts(d)),
        *(page(d, everything=True, picture="") for d in c.diffs if everything),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
