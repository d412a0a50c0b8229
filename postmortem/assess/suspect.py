"""Chooses the suspect batches and steps of an incident, which the replays of a cause change."""

from __future__ import annotations

import math

from postmortem.case import Case
from postmortem.causes import HALF, Cause, Observed, Suspect
from postmortem.change import Window

# Batches between a suspect window and the place it is moved to, so that its effect there is distinguishable.
AWAY, NEAREST = 40, 5


def suspect_for(case: Case, cause: Cause, observed: Observed) -> Suspect:
    """What the replays that `cause` predicts change in the incident of `case`."""
    first, last = suspect_window(case, cause, observed)
    end = case.batch_window()[1] + int(case.run.row_steps[-1]) - case.onset
    jump = observed.get("lr.jump")
    return Suspect(
        window=(first, last),
        move_to=move_target(last, end),
        onset=case.onset,
        jump=case.onset if jump is None or jump.step is None else jump.step,
        lost=case.pieces_lost,
        rate=case.shown.rate or HALF,
    )


def suspect_window(case: Case, cause: Cause | None, observed: Observed) -> Window:
    """The batches that `cause` suspects: absolute indices, half-open.

    The loss of step t is measured before update t. So a loss that is NaN at once may have been written by the update of
    the batch before: that batch is in the window as well, unless a gradient or parameter norm shows what it did.
    """
    count = cause.suspect_batch_count(case, observed) if cause and cause.suspect_batch_count else None
    first, last = case.batch_window(count)
    before = case.damaged_between is None and _may_be_written_before(case)  # else the checkpoints show when
    return first - (first > 0 and before), last


def _may_be_written_before(case: Case) -> bool:
    loss = case.series("loss")
    value = loss.at(case.onset) if loss is not None else None
    if case.incident.findings[0].column != "loss" or case.incident.onset_interval or value is None:
        return False
    norms = [column for name in ("grad_norm", "param_norm") if (column := case.series(name)) is not None]
    return not math.isfinite(value) and all(column.at(case.onset - 1) is None for column in norms)


def move_target(last: int, end: int) -> int:
    """The batch to which a window that ends before batch `last` is moved, in a run that consumed the batches before
    `end`: far enough away to distinguish its effect, with at least as many steps after it as before it."""
    return last + max(NEAREST, min(AWAY, (end - last) // 2))
