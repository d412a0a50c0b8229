"""The view itself as strict JSON: what the report says, for a page or a program that shows it in its own way.

Its keys are those of `ReportView` and change with it; what is versioned, and can be rendered again, is diagnosis.json.
"""

from __future__ import annotations

import json

from postmortem.diagnosis import as_json
from postmortem.report.renderers import Renderer
from postmortem.report.view import ReportView


def _render(report: ReportView) -> str:
    """In ASCII, which is JSON's own escape: it holds whatever a name holds, half a surrogate pair as well."""
    return json.dumps(as_json(report), indent=1, allow_nan=False) + "\n"


RENDERER = Renderer("json", _render)
