"""The few lines a person reads on the terminal: what, when, why, and where the report lies."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from postmortem.diagnosis import Diagnosis, Hypothesis, Incident
from postmortem.report import words
from postmortem.report.select import chosen
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
    shown = chosen(diagnosis, incident)
    word = diagnosis.verdict if shown is None else shown.verdict
    head = (
        Span(plain(diagnosis.run_id, 200 if width is None else width // 2), "bold"),
        Span("  "),
        Span(words.verdict(word), VERDICT_STYLES.get(word, "bold red")),
        Span(f": {words.verdict_means(diagnosis, shown)}"),
    )
    lines = [head, *_resumes(diagnosis, width)]
    if shown is not None:
        lines += [*_wrapped(plain(shown.summary, 1000), width), (), _path(shown)]
        lines += [(), *_bars(shown.hypotheses[:MOST_BARS], unicode)] if shown.hypotheses else []
        if shown.watch:
            lines += [(), *_wrapped(f"Watch: {plain(shown.watch, 1000)}", width)]
        lines += _others(diagnosis, shown, width)
    return tuple(_fitted(line, width, unicode) for line in lines)


def _resumes(diagnosis: Diagnosis, width: int | None) -> list[Line]:
    """The newest resume, which is the first thing to know of a run that has one."""
    resumes = diagnosis.run.resumes
    more = f", and {len(resumes) - 1} before" if len(resumes) > 1 else ""
    return _wrapped(plain(resumes[-1], 300) + more, width) if resumes else []


def _path(incident: Incident) -> Line:
    end = f"recovery {incident.recovery_step}" if incident.recovery_step is not None else words.recovery(incident)
    return (
        Span(plain(words.kind(incident)), "bold"),
        Span("  onset "),
        Span(words.onset(incident), "bold"),
        Span(f" → peak {incident.peak_step} → "),
        Span(end, "green" if incident.outcome == "recovered" else "red"),
    )


def _bars(hypotheses: Sequence[Hypothesis], unicode: bool) -> list[Line]:
    widest = max(len(plain(h.cause)) for h in hypotheses)
    return [_bar(h, unicode, widest) for h in hypotheses]


def _bar(hypothesis: Hypothesis, unicode: bool, widest: int) -> Line:
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


def _others(diagnosis: Diagnosis, shown: Incident, width: int | None) -> list[Line]:
    rest = [
        f"{i.id} ({plain(words.kind(i), 60)}, step {words.onset(i)})" for i in diagnosis.incidents if i is not shown
    ]
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
