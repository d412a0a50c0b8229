"""Whether §6 of a report fails on the run that it is about, as it must."""

from __future__ import annotations

from postmortem.assess.verification import rows_of, verify
from postmortem.diagnosis import Diagnosis, Incident
from postmortem.pipeline import diagnose
from postmortem.run import Run


def failed(incident: Incident, run: Run) -> list[str]:
    """What of §6 of `incident` is not as expected in `run`, as `postmortem verify --against` judges it."""
    assert incident.verification is not None
    results = verify(incident.verification, incident.onset_step, run, rows_of(incident, run))
    return [result.text for result in results if not result.passed]


def passed_by_itself(run: Run, diagnosis: Diagnosis | None = None) -> list[str]:
    """The diagnosed incidents of `run` that `run` itself would pass for fixed, by their headlines."""
    diagnosis = diagnose(run, text=False) if diagnosis is None else diagnosis
    return [
        incident.headline
        for incident in diagnosis.incidents
        if incident.verification is not None and not incident.verification.not_needed and not failed(incident, run)
    ]
