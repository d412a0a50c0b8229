"""Chooses the incident that a report is about: by its number, by a step, or the worst."""

from __future__ import annotations

from postmortem.diagnosis import Diagnosis, Incident
from postmortem.errors import UsageError
from postmortem.text import plain

NEAR = 50  # steps: `--at 300` means the incident that began at 312


def select_id(diagnosis: Diagnosis, *, number: int | None = None, at: int | None = None) -> int | None:
    """The id of incident `number`, of the incident at step `at`, or of the worst; None where there is no incident.

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
        around = [i for i in incidents if _first(i) <= at <= _last(i)]
        near = around or [i for i in incidents if abs(i.onset_step - at) <= NEAR]
        if not near:
            raise UsageError(f"No incident at step {at} or within {NEAR} steps of it: {_incident_list(diagnosis)}")
        return min(near, key=lambda i: abs(i.onset_step - at)).id
    return incidents[0].id if incidents else None


def select_incident(diagnosis: Diagnosis, number: int | None) -> Incident | None:
    """The incident with id `number`, or the worst; None where there is no incident."""
    selected = select_id(diagnosis, number=number)
    return next((i for i in diagnosis.incidents if i.id == selected), None)


def _first(incident: Incident) -> int:
    return incident.onset_interval[0] + 1 if incident.onset_interval else incident.onset_step


def _last(incident: Incident) -> int:
    return max(incident.peak_step, incident.recovery_step or incident.peak_step)


def _incident_list(diagnosis: Diagnosis) -> str:
    if not diagnosis.incidents:
        return "the run has no incident."
    each = [f"{i.id} ({plain(i.kind)} at step {i.onset_step})" for i in diagnosis.incidents]
    return "there are " + ", ".join(each) + "." if len(each) > 1 else f"there is only {each[0]}."
