"""How figures, kinds and verdicts read."""

from __future__ import annotations

import math

from postmortem.diagnosis import Diagnosis, Figure, Incident

VERDICTS = {
    "no_incident": "nothing in the log departs from its own baseline",
    "undecided": "the panels do not single out one cause",
    "supported": "the panels support one cause; only a replay can confirm it",
    "confirmed": "a replay confirmed the cause",
    "refuted": "a replay refuted the leading cause",
    "interaction": "a replay showed that it takes both the data and the state",
    "not_reproducible": "a replay did not reproduce the incident",
}


FEWEST_ROWS = 12  # before them no detector has a baseline: only non-finite values and empty batches are found


def verdict_means(diagnosis: Diagnosis, incident: Incident | None) -> str:
    """What the verdict says of the run, or of one incident, in a sentence's words."""
    rows = diagnosis.run.rows
    if incident is None and rows <= FEWEST_ROWS:
        return f"too few rows for a baseline ({rows}): only non-finite values could be seen, and there are none"
    return VERDICTS[diagnosis.verdict if incident is None else incident.verdict]


def kind(incident: Incident) -> str:
    """The incident's kind in words."""
    return incident.title or incident.kind.replace("_", " ")


def figure(value: Figure) -> str:
    """A number with four significant digits; NaN and infinities by name; a dash for None."""
    if value is None:
        return "—"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"
        return f"{value:.4g}"
    return str(value)


def onset(incident: Incident) -> str:
    """The onset step, or the interval it lies in where rows are sparse."""
    if incident.onset_interval is None:
        return str(incident.onset_step)
    return f"{incident.onset_interval[0] + 1}–{incident.onset_interval[1]}"


def recovery(incident: Incident) -> str:
    """The recovery step, or why there is none."""
    if incident.recovery_step is not None:
        return str(incident.recovery_step)
    if incident.discarded and incident.outcome == "unresolved":
        return "rolled back before it"
    return {"unresolved": "the log ends before it", "lingering": "lingers"}.get(incident.outcome, "did not recover")


def verdict(word: str) -> str:
    """`no_incident` as "no incident"."""
    return word.replace("_", " ")


def title(incident: Incident | None) -> str:
    """The report's title without date and run."""
    if incident is None:
        return "Training check"
    return "Loss spike post-mortem" if incident.kind == "loss_spike" else "Training post-mortem"
