"""What is shown of a diff, of two runs or of several: terminal lines, a Markdown page, JSON, a picture, files."""

from __future__ import annotations

from pathlib import Path

from postmortem.diff.model import ManyRunsDiff, RunsDiff
from postmortem.diff.page import page, table_page
from postmortem.diff.terminal import summarize, tabulate
from postmortem.diff.write import JSON, write_files
from postmortem.jsonio import strict_json
from postmortem.lines import Line

PICTURE, PAGE = "diff.png", "diff.md"


def summary(
    found: RunsDiff | ManyRunsDiff, width: int | None = None, *, unicode: bool = True, everything: bool = False
) -> tuple[Line, ...]:
    """Lines for a terminal, no wider than `width` (None: not wrapped); without `unicode`, in ASCII but for names.

    `everything` says also what is unchanged, and of several diffs each in full.
    """
    if isinstance(found, RunsDiff):
        return summarize(found, width=width, unicode=unicode, everything=everything)
    return tabulate(found, width=width, unicode=unicode, everything=everything)


def markdown(found: RunsDiff | ManyRunsDiff, *, everything: bool = False, picture: str = "") -> str:
    """The same as a Markdown page, with the `picture` of that path in it ("": none)."""
    if isinstance(found, RunsDiff):
        return page(found, everything=everything, picture=picture)
    return table_page(found, everything=everything, picture=picture)


def to_json(found: RunsDiff | ManyRunsDiff) -> str:
    """Strict JSON, as docs/runs-diff.md describes it; that of several diffs holds `verdicts` by themselves."""
    if isinstance(found, RunsDiff):
        return strict_json(found, ensure_ascii=False)
    head = {"schema_version": found.schema_version, "tool": found.tool, "verdicts": found.verdicts}
    return strict_json({**head, "diffs": found.diffs}, ensure_ascii=False)


def write(found: RunsDiff | ManyRunsDiff, out: Path, *, everything: bool = False) -> Path:
    """Write diff.json, diff.md and diff.png into `out`; the path of diff.md.

    Raises UsageError where `out` holds files of these names that no diff wrote, or cannot be written.
    """
    from postmortem.diff.figure import draw  # matplotlib, which nothing else here needs

    diffs = (found,) if isinstance(found, RunsDiff) else found.diffs
    text = markdown(found, everything=everything, picture=PICTURE)
    return write_files(out, {PICTURE: draw(diffs), JSON: to_json(found), PAGE: text})
