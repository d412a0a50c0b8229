"""Panel 12, state identity: resumes, parameter hashes, and whether ranks agree."""

from __future__ import annotations

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.text import plain


def _measure(case: Case) -> list[Observation]:
    seen: list[Observation] = []
    if case.resume is not None:
        steps = case.onset - case.resume
        text = (
            f"the run was resumed at step {case.resume}, {steps} steps before the onset"
            if steps
            else f"the run was resumed at step {case.resume}, the onset"
        )
        seen.append(Observation("state.resumed", text, step=case.resume, figures={"resume_step": case.resume}))
    elif case.run.journal:
        seen.append(
            Observation("state.no_resume", "no resume within ten rows before the onset", step=case.onset, moved=False)
        )
    for event in case.run.journal:
        if (
            event.event == "config_change"
            and event.step is not None
            and 0 <= case.onset - event.step <= 10 * case.row_step
        ):
            key = plain(event.keys.get("key", "?"), 60)
            seen.append(
                Observation("state.config_change", f"config {key} changed at step {event.step}", step=event.step)
            )
    seen += _sibling(case)
    hashes = case.labels("param_hash")
    near = (
        []
        if hashes is None
        else [v for s, v in zip(hashes.step, hashes.value, strict=True) if case.span[0] <= s < case.span[1]]
    )
    if len(near) >= 3 and len(set(near)) == 1:
        seen.append(
            Observation(
                "state.frozen", "the parameter hash does not change from step to step", "param_hash", case.onset
            )
        )
    return seen


def _sibling(case: Case) -> list[Observation]:
    """Whether another run has an incident at the same step, on another batch: what they share then is the schedule."""
    found = None if case.sibling is None else case.sibling.incident_near(case.onset, case.row_step)
    if case.sibling is None or found is None:
        return []
    own, there = case.labels("batch_hash"), case.sibling.run.labels("batch_hash")
    here = None if own is None else own.at(case.onset)
    other = None if there is None else there.at(case.onset)
    if here is None or other is None or here == other:
        return []
    text = f"the run {plain(case.sibling.run.id, 60)} has an incident at step {found.onset_step}, too, on another batch"
    return [Observation("state.baseline_same_step", text, step=case.onset, figures={"step": found.onset_step})]


PANEL = Panel(
    12,
    "state_identity",
    "State identity",
    ("param_hash",),
    _measure,
    "whether the state jumped at a resume or between ranks: write resume events and param_hash",
    constant_is_silent=False,
    without_columns=lambda case: bool(case.run.journal) or case.resume is not None or case.sibling is not None,
    observes=(
        "state.resumed",
        "state.no_resume",
        "state.config_change",
        "state.frozen",
        "state.baseline_same_step",
    ),
)
