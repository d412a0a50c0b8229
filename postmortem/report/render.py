"""A Diagnosis in one of the formats there are."""

from __future__ import annotations

from postmortem.diagnosis import Diagnosis
from postmortem.errors import UsageError
from postmortem.report.build import report_view
from postmortem.report.renderers import renderers
from postmortem.report.select import chosen


def formats() -> tuple[str, ...]:
    """The report formats there are, by name."""
    return tuple(renderers())


def render(diagnosis: Diagnosis, *, incident: int | None = None, format: str = "md") -> str:
    """The report on incident `incident` (its id; default: the worst), up to where the person's own notes begin.

    Raises UsageError for an incident or a format there is not.
    """
    renderer = renderers().get(format)
    if renderer is None:
        raise UsageError(f"There is no report format {format!r}: choose from {', '.join(formats())}.")
    return renderer.render(report_view(diagnosis, chosen(diagnosis, incident)))
