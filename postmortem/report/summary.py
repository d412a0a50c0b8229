"""The few lines a person reads on the terminal: what, when, why, and where the report lies."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from postmortem.diagnosis import Diagnosis
from postmortem.report.build import report_view
from postmortem.report.select import chosen
from postmortem.report.view import HypothesisView, IncidentView, OtherIncident, ReportView
from postmortem.report.wording import LIMIT
from postmortem.text import plain

BAR = 16  # characters of a hypothesis' bar at probability 1
MOST_BARS = 4
EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class Span:
    """Text with the rich style it takes on a terminal that shows styles."""

    text: str
    style: str = ""


Line = tuple[Span, ...]

VERDICT_STYLES = {"no_incident": "bold green", "undecided": "bold yellow"}
STRENGTH_STYLES = {"strong": "bold", "moderate": "", "weak": "dim"}


def summarize(
    diagnosis: Diagnosis, *, incident: int | None = None, width: int | None = None, unicode: bool = True
) -> tuple[Line, ...]:
    """The summary's lines, no wider than `width` (None: not wrapped); without `unicode`, in ASCII but for names."""
    return lines(report_view(diagnosis, chosen(diagnosis, incident)), width=width, unicode=unicode)


def lines(report: ReportView, *, width: int | None = None, unicode: bool = True) -> tuple[Line, ...]:
    """The summary of a report, as `summarize` gives it."""
    head = (
        Span(plain(report.run_id, 200 if width is None else width // 2), "bold"),
        Span("  "),
        Span(report.verdict_words, VERDICT_STYLES.get(report.verdict, "bold red")),
        Span(f": {report.verdict_means}"),
    )
    made = [head, *_resumes(report, width)]
    shown = report.incident
    if shown is not None:
        bars = (*shown.hypotheses, *shown.others)[:MOST_BARS]
        made += [*_wrapped(plain(shown.summary, LIMIT), width), (), _path(shown)]
        made += [(), *_bars(bars, unicode)] if bars else []
        if shown.watch:
            made += [(), *_wrapped(f"Watch: {plain(shown.watch, LIMIT)}", width)]
        made += _others(report.other_incidents, width)
    return tuple(_fitted(line, width, unicode) for line in made)


def _resumes(report: ReportView, width: int | None) -> list[Line]:
    """The newest resume, which is the first thing to know of a run that has one."""
    before = report.earlier_resumes + len(report.resumes) - 1
    more = f", and {before} before" if before > 0 else ""
    return _wrapped(plain(report.resumes[-1], 300) + more, width) if report.resumes else []


def _path(incident: IncidentView) -> Line:
    end = f"recovery {incident.recovery_step}" if incident.recovery_step is not None else incident.recovery
    return (
        Span(plain(incident.kind), "bold"),
        Span("  onset "),
        Span(incident.onset, "bold"),
        Span(f" → peak {incident.peak_step} → "),
        Span(end, "green" if incident.outcome == "recovered" else "red"),
    )


def _bars(hypotheses: Sequence[HypothesisView], unicode: bool) -> list[Line]:
    widest = max(len(plain(h.cause)) for h in hypotheses)
    return [_bar(h, unicode, widest) for h in hypotheses]


def _bar(hypothesis: HypothesisView, unicode: bool, widest: int) -> Line:
    style = STRENGTH_STYLES[hypothesis.strength]
    size = hypothesis.probability * BAR
    if unicode:
        whole, part = divmod(round(size * 8), 8)
        bar = "█" * whole + (EIGHTHS[part] if part else "")
    else:
        bar = "#" * round(size)
    return (
        Span(f"{bar:<{BAR}}", "cyan"),
        Span(f"  {hypothesis.strength:<8}  ", style),
        Span(f"{plain(hypothesis.cause):<{widest}}", style),
        Span(f"  {plain(hypothesis.title)}", "dim"),
    )


def _others(others: Sequence[OtherIncident], width: int | None) -> list[Line]:
    rest = [f"{i.id} ({plain(i.kind, 60)}, step {i.onset})" for i in others]
    if not rest:
        return []
    more = f", and {len(rest) - 5} more" if len(rest) > 5 else ""
    return [(), *_wrapped(f"Other incidents, by --incident: {', '.join(rest[:5])}{more}.", width)]


def _wrapped(text: str, width: int | None) -> list[Line]:
    return [(Span(line),) for line in (textwrap.wrap(text, width) if width else [text])]


def _fitted(line: Line, width: int | None, unicode: bool) -> Line:
    """The line cut to `width` characters, and its arrows, dashes and ellipses in ASCII where they must be."""
    fitted: list[Span] = []
    left = width
    for span in line:
        text = span.text if unicode else span.text.replace("→", "->").replace("–", "-").replace("…", "~")
        if left is not None:
            if len(text) > left:
                text = text[: max(0, left - 1)] + ("…" if unicode else "~") * bool(left)
            left -= len(text)
        fitted.append(Span(text, span.style))
    return tuple(fitted)
