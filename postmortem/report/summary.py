"""Summarizes a report in the few lines that `postmortem draft` prints: what happened, when, and why."""

from __future__ import annotations

from collections.abc import Sequence

from postmortem.diagnosis import Diagnosis
from postmortem.report.build import report_view
from postmortem.report.select import select_incident
from postmortem.report.view import HypothesisView, IncidentView, OtherIncident, ReportView
from postmortem.report.wording import LIMIT
from postmortem.terminal_layout import Line, Span, in_ascii, table, wrap
from postmortem.text import plain

BAR = 16  # characters of a hypothesis' bar at probability 1
MOST_BARS = 4
EIGHTHS = " ▏▎▍▌▋▊▉"


VERDICT_STYLES = {"no_incident": "bold green", "undecided": "bold yellow"}
STRENGTH_STYLES = {"strong": "bold", "moderate": "", "weak": "dim"}


def summarize(
    diagnosis: Diagnosis, *, incident: int | None = None, width: int | None = None, unicode: bool = True
) -> tuple[Line, ...]:
    """The summary's lines, no wider than `width` (None: not wrapped); without `unicode`, in ASCII but for names."""
    return lines(report_view(diagnosis, select_incident(diagnosis, incident)), width=width, unicode=unicode)


def lines(report: ReportView, *, width: int | None = None, unicode: bool = True) -> tuple[Line, ...]:
    """The summary of a report, as `summarize` gives it."""
    head = (
        Span(plain(report.run_id), "bold"),
        Span("  "),
        Span(report.verdict_words, VERDICT_STYLES.get(report.verdict, "bold red")),
        Span(f": {report.verdict_means}"),
    )
    summary = wrap(head, width, hang=2)
    if report.resumes:
        summary += wrap(_newest_resume(report), width)
    incident = report.incident
    if incident is not None:
        summary += [*wrap(plain(incident.summary, LIMIT), width), (), *wrap(_path(incident), width, hang=2)]
        bars = (*incident.hypotheses, *incident.others)[:MOST_BARS]
        if bars:
            summary += [(), *table([_bar(hypothesis, unicode) for hypothesis in bars], width)]
        if incident.since:
            summary += [(), *wrap(plain(incident.since, LIMIT), width)]
        if incident.rollback:
            summary += [(), *wrap(f"Watchdog: {incident.rollback}", width)]
        if incident.watch:
            summary += [(), *wrap(f"Watch: {plain(incident.watch, LIMIT)}", width)]
        if report.other_incidents:
            summary += [(), *wrap(_others(report.other_incidents), width)]
    return tuple(summary if unicode else map(in_ascii, summary))


def _newest_resume(report: ReportView) -> str:
    """The first thing to know of a run that was resumed."""
    earlier = report.earlier_resumes + len(report.resumes) - 1
    more = f", and {earlier} before" if earlier > 0 else ""
    return plain(report.resumes[-1], 300) + more


def _path(incident: IncidentView) -> Line:
    end = f"recovery {incident.recovery}" if incident.recovery_step is not None else incident.recovery
    return (
        Span(plain(incident.kind), "bold"),
        Span("  onset "),
        Span(incident.onset, "bold"),
        Span(f" → peak {incident.peak_step} → "),
        Span(end, "green" if incident.outcome == "recovered" else "red"),
    )


def _bar(hypothesis: HypothesisView, unicode: bool) -> tuple[Span, ...]:
    """Cells of a table: the probability as a bar, the strength, the cause, its title."""
    style = STRENGTH_STYLES[hypothesis.strength]
    size = hypothesis.probability * BAR
    if unicode:
        whole, part = divmod(round(size * 8), 8)
        bar = "█" * whole + (EIGHTHS[part] if part else "")
    else:
        bar = "#" * round(size)
    return (
        Span(f"{bar:<{BAR}}", "cyan"),
        Span(f"{hypothesis.strength:<8}", style),
        Span(plain(hypothesis.cause), style),
        Span(plain(hypothesis.title), "dim"),
    )


def _others(others: Sequence[OtherIncident]) -> str:
    listed = [f"{i.id} ({plain(i.kind, 60)}, step {i.onset})" for i in others]
    more = f", and {len(listed) - 5} more" if len(listed) > 5 else ""
    return f"Other incidents, by --incident: {', '.join(listed[:5])}{more}."
