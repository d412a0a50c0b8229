"""Renders the terminal summary as plain text, as in a pipe: without styles, and not wrapped."""

from __future__ import annotations

from postmortem.report.renderers import Renderer
from postmortem.report.summary import lines
from postmortem.report.view import ReportView
from postmortem.terminal_layout import joined


def _render(report: ReportView) -> str:
    return "".join(joined(line) + "\n" for line in lines(report))


RENDERER = Renderer("terminal", _render)
