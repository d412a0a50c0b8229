"""Summarizes a report in the few lines that `postmortem draft` prints: what happened, when, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from postmortem.diagnosis import Diagnosis
from postmortem.report.select import select_incident
from postmortem.report.wording import LIMIT
from postmortem.terminal_layout import Line, Span, in_ascii, table, wrap
from postmortem.text import count, plain

if TYPE_CHECKING:
    from postmortem.report.view import HypothesisView, IncidentView, OtherIncident, ReportView

BAR = 16  # characters of a hypothesis' bar at probability 1
MOST_BARS = 4
MOST_LISTED = 5  # other incidents, and notes
EIGHTHS = " ▏▎▍▌▋▊▉"


VERDICT_STYLES = {"no_incident": "bold green", "not_judged": "bold yellow", "undecided": "bold yellow"}
STRENGTH_STYLES = {"strong": "bold", "moderate": "", "weak": "dim"}


def summarize(
    diagnosis: Diagnosis, *, incident: int | None = None, width: int | None = None, unicode: bool = True
) -> tuple[Line, ...]:
    """The summary's lines, no wider than `width` (None: not wrapped); without `unicode`, in ASCII but for names."""
    from postmortem.report.build import report_view

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
    if report.not_covered:
        summary += wrap((Span(f"Not covered: {plain('; '.join(report.not_covered), LIMIT)}.", "dim"),), width)
    if report.incident is not None:
        summary += _incident_lines(report, report.incident, width, unicode)
    if report.other_incidents:
        summary += [(), *wrap(_others(report.other_incidents, report.incidents_found - 1), width)]
    if report.notes:
        summary += [(), *_notes(report, width)]
    return tuple(summary if unicode else map(in_ascii, summary))


def _incident_lines(report: ReportView, incident: IncidentView, width: int | None, unicode: bool) -> list[Line]:
    """What happened in the incident, when and why, and what became of it: each part after an empty line."""
    lines = wrap(plain(incident.summary, LIMIT), width)
    if report.later_resumes:
        lines += wrap(_first_later_resume(report), width)
    lines += [(), *wrap(_path(incident), width, hang=2)]
    bars = (*incident.hypotheses, *incident.others)[:MOST_BARS]
    if bars:
        lines += [(), *table([_bar(hypothesis, unicode) for hypothesis in bars], width)]
    parts = (
        plain(incident.other_moved, LIMIT),
        plain(incident.since, LIMIT),
        incident.rollback and f"Watchdog: {incident.rollback}",
        incident.watch and f"Watch: {plain(incident.watch, LIMIT)}",
    )
    return lines + [line for part in parts if part for line in [(), *wrap(part, width)]]


def _newest_resume(report: ReportView) -> str:
    """The first thing to know of a run that was resumed."""
    earlier = report.earlier_resumes + len(report.resumes) - 1
    more = f", and {earlier} before" if earlier > 0 else ""
    return plain(report.resumes[-1], 300) + more


def _first_later_resume(report: ReportView) -> str:
    """How the run went on from an incident of an earlier attempt."""
    others = report.more_later_resumes + len(report.later_resumes) - 1
    return f"later {plain(report.later_resumes[0], 300)}" + (f", and {others} after it" if others else "")


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


def _others(others: Sequence[OtherIncident], incidents: int) -> str:
    listed = [f"{i.id} ({plain(i.kind, 60)}, step {i.onset})" for i in others[:MOST_LISTED]]
    more = f", and {incidents - len(listed)} more" if incidents > len(listed) else ""
    return f"Other incidents, by --incident: {', '.join(listed)}{more}."


def _notes(report: ReportView, width: int | None) -> list[Line]:
    """What was noticed while reading the log: it may change what the verdict is worth."""
    shown, rest = report.notes[:MOST_LISTED], len(report.notes[MOST_LISTED:]) + report.more_notes
    notes = [plain(note, LIMIT) for note in shown] + ([f"and {count(rest, 'more note')} in the report"] if rest else [])
    return [line for note in notes for line in wrap((Span(note, "dim"),), width, head=(Span("- ", "dim"),))]
