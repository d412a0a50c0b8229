"""Panel 12, state identity: what the journal says of the time before the onset, and parameter hashes around it."""

from __future__ import annotations

from collections.abc import Iterator

from postmortem.case import Case, Observation
from postmortem.detectors import Finding
from postmortem.panels import Panel
from postmortem.panels._journal import OBSERVES, measure_journal
from postmortem.text import number, plain

_FINDINGS = ("reinitialization", "rank_difference", "no_training")
"""Kinds of findings that this panel puts into words."""


def _measure(case: Case) -> list[Observation]:
    observations = measure_journal(case)
    observations += _sibling_step(case)
    observations += _saved_damage(case)
    observations += _began_anew(case)
    observations += _ranks_differ(case)
    observations += _nothing_trained(case)
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


def _began_anew(case: Case) -> Iterator[Observation]:
    """Whether loss and rate of the first row come again within the log: a model and a schedule that begin anew."""
    f = _first_finding(case, "reinitialization")
    if f is None:
        return
    keys = ("loss", "first_loss", "lr", "first_lr", "first_step")
    loss, first_loss, lr, first_lr, first_step = (f.figures[key] for key in keys)
    text = (
        f"the run began anew at step {f.onset_step}: the loss is {number(loss)} ({number(first_loss)} at step "
        f"{first_step:.0f}), the rate {number(lr)} ({number(first_lr)} at step {first_step:.0f})"
    )
    yield Observation("state.reinitialized", text, "loss", f.onset_step, {key: f.figures[key] for key in keys})


def _ranks_differ(case: Case) -> Iterator[Observation]:
    """From which step on ranks differ that agreed before."""
    for name in ("param_hash", "loss_scale"):
        f = _first_finding(case, "rank_difference", name)
        if f is None:
            continue
        rank, other = f"{f.figures['rank']:.0f}", f"{f.figures['other_rank']:.0f}"
        until = "" if f.recovery_step is None else f" until step {f.recovery_step}"
        text = (
            f"{name} differs between the ranks from step {f.onset_step} on{until}: rank {rank} is not equal to rank "
            f"{other}, and they were equal before"
        )
        yield Observation("state.ranks_differ", text, f.column, f.onset_step, dict(f.figures))


def _nothing_trained(case: Case) -> Iterator[Observation]:
    """What shows that no update changes anything, in one sentence."""
    findings = [f for f in case.incident.findings if f.kind == "no_training"]
    parts: list[str] = []
    for f in findings:
        rows = f"{f.figures['rows']:.0f} rows"
        still = f"{f.column} does not change by a digit in {rows}, from step {f.onset_step} on"
        parts.append(
            {
                "skipped": f"skipped marks the update of all {rows}",
                "param_hash": still.replace(" by a digit", ""),
                "param_norm": still,
                "loss": still,
            }.get(f.column, f"{f.column} is 0 in all {rows}")
        )
    if findings:
        text = f"nothing is trained: {', and '.join(parts)}"
        figures = {"rows": max(f.figures["rows"] for f in findings)}
        yield Observation("state.not_training", text, findings[0].column, findings[0].onset_step, figures)


def _first_finding(case: Case, kind: str, column: str = "") -> Finding | None:
    """The incident's first finding of a kind, on a column or one rank's part of it where `column` says so."""
    return next(
        (f for f in case.incident.findings if f.kind == kind and (not column or f.column.startswith(f"{column}/"))),
        None,
    )


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
        or any(f.kind in _FINDINGS for f in case.incident.findings)
    ),
    observes=(
        *OBSERVES,
        "state.frozen",
        "state.baseline_same_step",
        "state.nonfinite_checkpoint",
        "state.reinitialized",
        "state.ranks_differ",
        "state.not_training",
    ),
)
