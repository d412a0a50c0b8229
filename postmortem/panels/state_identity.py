"""Panel 12, state identity: what the journal says of the time before the onset, and parameter hashes around it."""

from __future__ import annotations

from collections.abc import Iterator

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.panels._journal import OBSERVES, measure_journal
from postmortem.text import plain


def _measure(case: Case) -> list[Observation]:
    observations = measure_journal(case)
    observations += _sibling_step(case)
    observations += _saved_damage(case)
    hashes = case.labels("param_hash")
    near = (
        []
        if hashes is None
        else [v for s, v in zip(hashes.step, hashes.value, strict=True) if case.span[0] <= s < case.span[1]]
    )
    if len(near) >= 3 and len(set(near)) == 1:
        text = "param_hash does not change from step to step"
        observations.append(Observation("state.frozen", text, "param_hash", case.onset))
    return observations


def _sibling_step(case: Case) -> list[Observation]:
    """Whether another run has an incident at the same step on a different batch: then they share only the schedule."""
    incident = None if case.sibling is None else case.sibling.incident_near(case.onset, case.row_step)
    if case.sibling is None or incident is None:
        return []
    hashes = (case.labels("batch_hash"), case.sibling.run.labels("batch_hash"))
    batch, sibling_batch = (None if labels is None else labels.at(case.onset) for labels in hashes)
    if batch is None or sibling_batch is None or batch == sibling_batch:
        return []
    name, step = plain(case.sibling.run.id, 60), incident.onset_step
    text = f"the run {name} also has an incident at step {step}, on a different batch"
    return [Observation("state.baseline_same_step", text, step=case.onset, figures={"step": step})]


def _saved_damage(case: Case) -> Iterator[Observation]:
    """What the checkpoints before the onset show: damage can be older than the first batch that reads it."""
    between = case.damaged_between
    if between is None:
        return
    health = next(health for checkpoint, health in case.passed_over if checkpoint.step == between[1])
    text = (
        f"the checkpoint of step {between[1]} {health.text}, and that of step {between[0]} is finite: an update in "
        f"steps {between[0]} to {between[1] - 1} wrote it, before the onset"
    )
    figures = {"finite_at": between[0], "not_finite_at": between[1]}
    yield Observation("state.nonfinite_checkpoint", text, step=between[1], figures=figures)


PANEL = Panel(
    12,
    "state_identity",
    "State identity",
    ("param_hash",),
    _measure,
    "whether the state jumped at a resume or between ranks: log resume events and param_hash",
    constant_is_silent=False,
    without_columns=lambda case: (
        bool(case.run.journal)
        or case.resume is not None
        or case.sibling is not None
        or case.damaged_between is not None
    ),
    observes=(
        *OBSERVES,
        "state.frozen",
        "state.baseline_same_step",
        "state.nonfinite_checkpoint",
    ),
)
