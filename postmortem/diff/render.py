"""Renders a diff of two runs or of several: as terminal lines, a Markdown page, JSON, a picture, or files."""

from __future__ import annotations

from pathlib import Path

from postmortem.diff.model import ManyRunsDiff, RunsDiff
from postmortem.diff.page import page, table_page
from postmortem.diff.terminal import summarize, tabulate
from postmortem.diff.write import JSON, write_files
from postmortem.jsonio import strict_json
from postmortem.terminal_layout import Line

PICTURE, PAGE = "diff.png", "diff.md"


def summary(
    diff: RunsDiff | ManyRunsDiff, width: int | None = None, *, unicode: bool = True, everything: bool = False
) -> tuple[Line, ...]:
    """Lines for a terminal, no wider than `width` (None: not wrapped); without `unicode`, in ASCII except for names.

    `everything` adds what is unchanged, and each of several diffs in full.
    """
    if isinstance(diff, RunsDiff):
        return summarize(diff, width=width, unicode=unicode, everything=everything)
    return tabulate(diff, width=width, unicode=unicode, everything=everything)


def markdown(diff: RunsDiff | ManyRunsDiff, *, everything: bool = False, picture: str = "") -> str:
    """A Markdown page; `picture` is the path of its picture ("": none)."""
    if isinstance(diff, RunsDiff):
        return page(diff, everything=everything, picture=picture)
    return table_page(diff, everything=everything, picture=picture)


def to_json(diff: RunsDiff | ManyRunsDiff) -> str:
    """Strict JSON, as docs/runs-diff.md describes it; for several diffs, `verdicts` also lists their verdicts."""
    if isinstance(diff, RunsDiff):
        return strict_json(diff, ensure_ascii=False)
    head = {"schema_version": diff.schema_version, "tool": diff.tool, "verdicts": diff.verdicts}
    return strict_json({**head, "diffs": diff.diffs}, ensure_ascii=False)


def write(diff: RunsDiff | ManyRunsDiff, out: Path, *, everything: bool = False) -> Path:
    """Write diff.json, diff.md and diff.png into `out`; the path of diff.md.

    Raises UsageError where `out` contains files of these names that no diff wrote, CannotWrite where it cannot be
    written.
    """
    from postmortem.diff.figure import draw  # matplotlib, which nothing else here needs

    diffs = (diff,) if isinstance(diff, RunsDiff) else diff.diffs
    text = markdown(diff, everything=everything, picture=PICTURE)
    # The JSON comes first: it says whose the other files are, if this is killed halfway.
    return write_files(out, {JSON: to_json(diff), PICTURE: draw(diffs), PAGE: text})
