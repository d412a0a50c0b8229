"""Chooses the incident that a report is about: by its number, by a step, or the leading one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from postmortem.diagnosis import Diagnosis, Incident, leading
from postmortem.errors import UsageError
from postmortem.incident import Occurrence
from postmortem.text import count, plain

NEAR = 50  # rows: `--at 300` means the incident that began at 312
_LISTED = 20  # incidents that a message lists
_Incident = TypeVar("_Incident", bound=Occurrence)


@dataclass(frozen=True)
class IncidentChoice:
    """The incident that is asked for: by its number, or by a step; neither is the leading one."""

    number: int | None = None
    at: int | None = None


WORST = IncidentChoice()


def incident_at(incidents: Iterable[_Incident], step: int, row_step: int) -> _Incident | None:
    """The incident that contains `step`, or else began at most NEAR rows away from it, a row every `row_step` steps:
    the nearest, of two that are equally near the first. None where there is none."""
    candidates = tuple(incidents)
    around = [i for i in candidates if _first(i) <= step <= _last(i)]
    near = around or [i for i in candidates if abs(i.onset_step - step) <= NEAR * row_step]
    return min(near, key=lambda i: abs(i.onset_step - step), default=None)


def select_id(diagnosis: Diagnosis, *, number: int | None = None, at: int | None = None) -> int | None:
    """The id of incident `number`, of the incident at step `at`, or of the leading one: one that an experiment was
    about, or else the worst. None where there is no incident.

    Raises UsageError, which lists the run's incidents, where the chosen one is not among them.
    """
    incidents = diagnosis.incidents
    if number is not None and at is not None:
        raise UsageError("--incident and --at both choose the incident: give one of them.")
    if number is not None:
        if all(incident.id != number for incident in incidents):
            raise UsageError(f"There is no incident {number}: {_incident_list(diagnosis)}")
        return number
    if at is not None:
        chosen = incident_at(incidents, at, diagnosis.run.log_every or 1)
        if chosen is None:
            raise UsageError(f"No incident at step {at} or within {NEAR} rows of it: {_incident_list(diagnosis)}")
        return chosen.id
    chosen = leading(incidents)
    return None if chosen is None else chosen.id


def select_incident(diagnosis: Diagnosis, number: int | None) -> Incident | None:
    """The incident with id `number`, or the leading one; None where there is no incident."""
    selected = select_id(diagnosis, number=number)
    return next((i for i in diagnosis.incidents if i.id == selected), None)


def _first(incident: Occurrence) -> int:
    return incident.onset_interval[0] + 1 if incident.onset_interval else incident.onset_step


def _last(incident: Occurrence) -> int:
    return max(incident.peak_step, incident.recovery_step or incident.peak_step)


def _incident_list(diagnosis: Diagnosis) -> str:
    if not diagnosis.incidents:
        return "the run has no incident."
    each = [f"{i.id} ({plain(i.kind)} at step {i.onset_step})" for i in diagnosis.incidents]
    rest = max(diagnosis.incidents_found, len(each)) - len(each[:_LISTED])
    more = f" and {count(rest, 'other')}" if rest else ""
    return f"there are {', '.join(each[:_LISTED])}{more}." if len(each) > 1 else f"there is only {each[0]}."
