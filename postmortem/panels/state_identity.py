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


PANEL = Panel(
    12,
    "state_identity",
    "State identity",
    ("param_hash",),
    _measure,
    "whether the state jumped at a resume or between ranks: write resume events and param_hash",
    constant_is_silent=False,
    without_columns=lambda case: bool(case.run.journal) or case.resume is not None,
)
