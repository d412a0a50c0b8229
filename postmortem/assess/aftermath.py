"""Says whether what was done about an incident worked, from the rows after it."""

from __future__ import annotations

import math

from postmortem.assess.verification import highest_mean
from postmortem.case import MIN_CLEAN_ROWS, Case
from postmortem.detectors import DetectedIncident
from postmortem.diagnosis import Verification
from postmortem.text import number, plain


def aftermath(case: Case, expected: Verification) -> str:
    """Whether the incident came back after what the journal says was done about it, and whether the loss is where it
    was before; "" where nothing was done that the rows could show."""
    redone = case.timeline.redone_in(case.incident)
    if case.begun_anew:
        return "The training was started again from its first step: what it does then says nothing about the incident."
    if redone is not None:
        return _after_rewind(case, expected, redone)
    steps = [a.step for a in case.response.actions if a.changes_the_training and a.step is not None]
    return _in_the_same_attempt(case, min(steps)) if steps else ""


def _after_rewind(case: Case, expected: Verification, redone: int) -> str:
    """The rows of the attempt that repeated the incident's steps, or of those that went on from it."""
    segment = next(s for s in case.run.segments if s.attempt == redone)
    through = case.last_step_after
    own = redone if segment.discarded and segment.kept_until <= through else None
    steps = case.run.steps(attempt=own)
    last = min(through, int(steps[-1]))
    name = plain(case.incident.title, 60)
    in_lineage = (i for i in case.incidents if (i.lineage == own and i.attempt >= redone))
    again = _first_of(case, [i for i in in_lineage if segment.first_step <= i.onset_step <= last])
    if again is not None and again.kind == case.incident.kind:
        return f"The rollback did not work: the {name} came back at step {again.onset_step}."
    if again is not None:
        other = plain(again.title, 60)
        return f"The {name} did not come back through step {last}, but there is a {other} at step {again.onset_step}."
    if last < case.incident.peak_step + MIN_CLEAN_ROWS * case.row_step:
        return f"Whether the rollback worked cannot be judged: the rows after it end at step {last}."
    return _loss_after(case, expected, own, last, f"the {name} did not come back through step {last}")


def _loss_after(case: Case, expected: Verification, attempt: int | None, last: int, absent: str) -> str:
    rows, worst = highest_mean(case.run.series("loss", attempt=attempt), case.onset, last)
    if worst is None or expected.baseline_loss is None or expected.epsilon is None:
        return f"{absent[:1].upper()}{absent[1:]}; no loss can be compared with that before it."
    if not math.isfinite(worst):
        return f"The rollback worked in part: {absent}, but the loss is not finite in the rows after it."
    limit = expected.baseline_loss + expected.epsilon
    figures = f"its {rows}-row mean is at most {number(worst)}, the limit {number(limit)}"
    if not worst <= limit:
        return f"The rollback worked in part: {absent}, but the loss is not where it was before ({figures})."
    skipped = any(action.skipped for action in case.response.actions)
    why = " This does not show the cause: a skip removes any incident that a batch causes." if skipped else ""
    return f"The rollback worked: {absent}, and the loss is where it was before ({figures}).{why}"


def _in_the_same_attempt(case: Case, first: int) -> str:
    """The rows after the first change, where the run went on without going back to before the incident."""
    incident, name = case.incident, plain(case.incident.title, 60)
    until = range(first + 1, case.last_step_after + 1)
    again = _first_of(case, [i for i in case.incidents if i.lineage == incident.lineage and i.onset_step in until])
    if again is not None:
        further = f"{plain(again.title, 60)} at step {again.onset_step}"
        return f"After the change at step {first}, a further incident began: {further}."
    if incident.recovery_step is not None and incident.recovery_step <= first:
        return f"The {name} was over at step {incident.recovery_step}, before the change at step {first}."
    level = "a higher level" if incident.outcome == "lingering" else "its level from before"
    if incident.recovery_step is not None:
        return f"After the change at step {first}, the run settled at {level} at step {incident.recovery_step}."
    if incident.outcome == "unresolved":
        return f"Whether the change at step {first} worked cannot be judged: the log ends too soon after it."
    return f"The change at step {first} did not work: the run did not recover after it."


def _first_of(case: Case, incidents: list[DetectedIncident]) -> DetectedIncident | None:
    """The first incident of the same kind, or else the first of another kind."""
    others = [i for i in incidents if i is not case.incident]
    return min(others, key=lambda i: (i.kind != case.incident.kind, i.onset_step), default=None)
