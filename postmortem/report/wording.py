"""Writes figures, lists, kinds and verdicts of a report as text, the same in every format."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from postmortem.diagnosis import MODERATE, STRONG, Diagnosis, Figure, Incident, OtherColumn, Rollback, Verdict
from postmortem.text import count, plain

LIMIT = 1000  # characters; a whole sentence may hold several names

VERDICTS: Mapping[Verdict, str] = {
    "no_incident": "nothing in the log departs from its own baseline",
    "not_judged": "the log does not show whether the run is sound",
    "undecided": "the panels do not point to one cause",
    "supported": "the panels support one cause; only a replay can confirm it",
    "confirmed": "a replay confirmed the cause",
    "refuted": "a replay refuted the leading cause",
    "interaction": "a replay showed that the incident needs both the data and the state",
    "not_reproducible": "a replay did not reproduce the incident",
}


def verdict_means(diagnosis: Diagnosis, incident: Incident | None) -> str:
    """What the verdict means for the run, or for one incident, as part of a sentence."""
    if incident is None and diagnosis.watchdog is not None:
        return plain(diagnosis.watchdog.passed, LIMIT)
    if incident is None and diagnosis.not_judged:
        return plain("; ".join(diagnosis.not_judged), LIMIT)
    if incident is not None and incident.verdict == "supported" and incident.proof:
        return f"{plain(incident.proof, LIMIT)}; only a new proof can confirm it"
    if incident is not None and incident.verdict == "undecided" and incident.remedy:
        return "a replay showed a remedy, but the replays do not decide on one cause"
    return VERDICTS[diagnosis.verdict if incident is None else incident.verdict]


def kind(incident: Incident) -> str:
    """The incident's kind in words."""
    return incident.title or incident.kind.replace("_", " ")


def rollback(asked: Rollback) -> str:
    """What the watchdog asks for: where to go back to, which batches to skip, and the reason to write down."""
    first, last = asked.skip
    target = f"roll back to step {asked.rollback_to_step}"
    if not asked.checkpoint_seen:
        target += " (no checkpoint is visible to this log: use your last one from before that step)"
    if asked.rollback_to_step is None:
        target = f"start from scratch, because no checkpoint is {count(asked.margin, 'step')} older than the onset"
    return (
        f"{target}, and skip {count(asked.skip_batches, 'batch')}, [{first}, {last}); reason: {plain(asked.reason, 60)}"
    )


def other_moved(columns: Sequence[OtherColumn]) -> str:
    """What moved in columns without a known meaning, as a sentence; "" where nothing did."""
    each = [f"{plain(c.column, 60)} from {figure_text(c.baseline)} to {figure_text(c.value)}" for c in columns]
    return f"Not understood, but moved in the incident: {', '.join(each)}." if each else ""


def figure_text(value: Figure) -> str:
    """A number with four significant digits; NaN and infinities by name; a dash for None."""
    if value is None:
        return "—"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"
        return f"{value:.4g}"
    return str(value)


def as_sentence(value: object) -> str:
    """`value` with a capital at the beginning, unless its first word is a column's name, and a full stop at the end."""
    text = plain(value, LIMIT).strip()
    text = text[:1].upper() + text[1:] if re.match(r"[a-z]+(?![\w/])", text) else text
    return text if not text or text[-1] in ".!?…" else f"{text}."


def separator(first: bool, last: bool) -> str:
    """The text before an item of a list: `a`, `a and b`, or `a, b and c`."""
    return "" if first else " and " if last else ", "


def and_list(items: Iterable[str]) -> str:
    """`a, b and c`."""
    parts = tuple(items)
    return "".join(separator(n == 0, n == len(parts) - 1) + part for n, part in enumerate(parts))


def hypothesis_numbers(numbers: Iterable[int]) -> str:
    """`H1 and H4–H7`: three or more in a row become a range."""
    groups: list[list[int]] = []
    for number in sorted(numbers):
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    parts: list[str] = []
    for group in groups:
        parts += [f"H{group[0]}–H{group[-1]}"] if len(group) > 2 else [f"H{n}" for n in group]
    return and_list(parts)


def strengths() -> str:
    """What strong, moderate and weak mean, as a sentence."""
    strong, moderate = (f"{100 * share:.0f} %" for share in (STRONG, MODERATE))
    return (
        f"Strong, moderate and weak compare the hypotheses with each other: a share of at least {strong}, of at least "
        f"{moderate}, or less. The shares are not calibrated."
    )


def onset(incident: Incident) -> str:
    """The onset step, or the interval that contains it where rows are sparse."""
    if incident.onset_interval is None:
        return str(incident.onset_step)
    return f"{incident.onset_interval[0] + 1}–{incident.onset_interval[1]}"


def recovery(incident: Incident) -> str:
    """The recovery step, and how it is no return where the incident lingers or diverged; or why there is none."""
    if incident.recovery_step is not None:
        how = {"lingering": " (at another level)", "diverged": " (what it had learned was lost)"}
        return f"{incident.recovery_step}{how.get(incident.outcome, '')}"
    if incident.discarded and incident.outcome == "unresolved":
        return "rolled back first"
    return {"unresolved": "the log ends first", "lingering": "lingers"}.get(incident.outcome, "did not recover")


def verdict_words(verdict: str) -> str:
    """`no_incident` as "no incident"."""
    return verdict.replace("_", " ")


def title(incident: Incident | None) -> str:
    """The report's title without date and run."""
    if incident is None:
        return "Training check"
    return "Loss spike post-mortem" if incident.kind == "loss_spike" else "Training post-mortem"
