"""Renders report.md through a template, escaped for Markdown and for HTML made from it."""

from __future__ import annotations

from collections.abc import Iterable

from postmortem.report import markdown
from postmortem.report.markdown import Safe
from postmortem.report.renderers import Renderer
from postmortem.report.templates import Template
from postmortem.report.view import ReportTable, SourceFile, TextPiece


def _table(table: ReportTable) -> Safe:
    """A pipe table; the first value of the marked row is bold."""
    rows = [(Safe(f"**{row[0]}**"), *row[1:]) if n == table.marked else row for n, row in enumerate(table.rows)]
    return markdown.table(table.headers, rows)


def _legend(files: Iterable[SourceFile]) -> Safe:
    """The letters of the places in each file, each with its column or key."""
    parts: list[str] = []
    for source in files:
        places = [
            f"[{place.mark}] " + (f"{markdown.escape(place.kind)} " if source.file else "") + markdown.code(place.name)
            for place in source.places
        ]
        parts.append((f"{markdown.code(source.file)}: " if source.file else "") + ", ".join(places))
    return Safe(" · ".join(parts))


def _passage(pieces: Iterable[TextPiece]) -> Safe:
    """The pieces as one text, with the marked pieces in ⟦ ⟧."""
    return markdown.escape("".join(f"⟦{piece.text}⟧" if piece.marked else piece.text for piece in pieces))


FILTERS = {
    "block": markdown.block,
    "code": markdown.code,
    "legend": _legend,
    "passage": _passage,
    "table": _table,
}

RENDERER = Renderer("md", Template("report.md.j2", markdown.escape, FILTERS))
