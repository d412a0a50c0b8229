"""From a cause to the replays that would prove it: what it suspects in this incident."""

from __future__ import annotations

from postmortem.case import Case
from postmortem.causes import Cause, Seen, Suspect

AWAY, NEAREST = 40, 5  # batches between a suspect window and the place it is moved to: its effect is seen apart there


def suspect(case: Case, cause: Cause, seen: Seen) -> Suspect:
    """What the predictions of `cause` are about here."""
    first, last = case.batch_window(cause.skip_rows(case, seen) if cause.skip_rows else None)
    end = case.batch_window()[1] + int(case.run.row_steps[-1]) - case.onset
    jump = seen.get("lr.jump")
    return Suspect(
        window=(first, last),
        elsewhere=elsewhere(last, end),
        onset=case.onset,
        jump=case.onset if jump is None or jump.step is None else jump.step,
    )


def elsewhere(last: int, end: int) -> int:
    """The batch to move a window that ends before `last` to, in a run that consumed those before `end`: far enough away
    to be told apart, and with as many steps after it as there are before."""
    return last + max(NEAREST, min(AWAY, (end - last) // 2))
