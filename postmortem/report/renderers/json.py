"""The view itself as strict JSON: what the report says, for a page or a program that shows it in its own way.

Its keys are those of `ReportView` and change with it; what is versioned, and can be rendered again, is diagnosis.json.
"""

from __future__ import annotations

from postmortem.jsonio import strict_json
from postmortem.report.renderers import Renderer
from postmortem.report.view import ReportView


def _render(report: ReportView) -> str:
    """In ASCII, which is JSON's own escape: it holds whatever a name holds, half a surrogate pair as well."""
    return strict_json(report)


RENDERER = Renderer("json", _render)
