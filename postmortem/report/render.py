"""Renders a diagnosis in one of the report formats."""

from __future__ import annotations

from postmortem.diagnosis import Diagnosis
from postmortem.errors import UsageError
from postmortem.report.select import select_incident


def formats() -> tuple[str, ...]:
    """The names of the report formats."""
    from postmortem.report.renderers import renderers

    return tuple(renderers())


def render(diagnosis: Diagnosis, *, incident: int | None = None, format: str = "md") -> str:
    """The report on incident `incident` (its id; default: the worst), without the reader's own notes at its end.

    Raises UsageError for an incident or a format that does not exist.
    """
    from postmortem.report.build import report_view
    from postmortem.report.renderers import renderers

    renderer = renderers().get(format)
    if renderer is None:
        raise UsageError(f"There is no report format {format!r}: choose from {', '.join(formats())}.")
    return renderer.render(report_view(diagnosis, select_incident(diagnosis, incident)))
