"""Renders a report as strict JSON: what the report says, for a program that shows it in its own way.

The keys are those of `ReportView` and change with it. diagnosis.json is the versioned file that can be rendered again.
"""

from __future__ import annotations

from postmortem.jsonio import strict_json
from postmortem.report.renderers import Renderer
from postmortem.report.view import ReportView


def _render(report: ReportView) -> str:
    """In ASCII with JSON's escapes, so that any name can be written, even half a surrogate pair."""
    return strict_json(report)


RENDERER = Renderer("json", _render)
