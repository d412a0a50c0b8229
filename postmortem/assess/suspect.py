"""Chooses the suspect batches and steps of an incident, which the replays of a cause change."""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Observed, Suspect

# Batches between a suspect window and the place it is moved to, so that its effect there is distinguishable.
AWAY, NEAREST = 40, 5


def suspect_for(case: Case, cause: Cause, observed: Observed) -> Suspect:
    """What the replays that `cause` predicts change in the incident of `case`."""
    first, last = case.batch_window(cause.suspect_batch_count(case, observed) if cause.suspect_batch_count else None)
    end = case.batch_window()[1] + int(case.run.row_steps[-1]) - case.onset
    jump = observed.get("lr.jump")
    return Suspect(
        window=(first, last),
        move_to=move_target(last, end),
        onset=case.onset,
        jump=case.onset if jump is None or jump.step is None else jump.step,
        lost=case.pieces_lost,
    )


def move_target(last: int, end: int) -> int:
    """The batch to which a window that ends before batch `last` is moved, in a run that consumed the batches before
    `end`: far enough away to distinguish its effect, with at least as many steps after it as before it."""
    return last + max(NEAREST, min(AWAY, (end - last) // 2))
