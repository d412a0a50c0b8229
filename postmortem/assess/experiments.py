"""From a cause to the replays that would prove it, and from replays that were driven to what the report says."""

from __future__ import annotations

import dataclasses

from postmortem.case import Case
from postmortem.diagnosis import Prediction
from postmortem.hypotheses import Cause, Seen

AWAY, NEAREST = 40, 5  # batches between a suspect window and the place it is moved to: its effect is seen apart there


def predictions(case: Case, cause: Cause, seen: Seen) -> tuple[Prediction, ...]:
    """What `cause` predicts, with this incident's batches and steps filled in."""
    places = _places(case, cause, seen)
    return tuple(dataclasses.replace(one, change=one.change.format(**places)) for one in cause.predicts)


def remedy(case: Case, cause: Cause, seen: Seen) -> tuple[str, ...]:
    """The changes by which a replay has the cause's fix in it: ("",) where driving it again is enough, () for none."""
    return () if cause.remedy is None else (cause.remedy.format(**_places(case, cause, seen)),)


def elsewhere(last: int, end: int) -> int:
    """The batch to move a window that ends before `last` to, in a run that consumed those before `end`: far enough away
    to be told apart, and with as many steps after it as there are before."""
    return last + max(NEAREST, min(AWAY, (end - last) // 2))


def _places(case: Case, cause: Cause, seen: Seen) -> dict[str, str]:
    first, last = case.batch_window(cause.skip_rows(case, seen) if cause.skip_rows else None)
    jump = seen.get("lr.jump")
    return {
        "window": f"{first}:{last}",
        "elsewhere": str(elsewhere(last, case.batch_window()[1] + int(case.run.row_steps[-1]) - case.onset)),
        "onset": str(case.onset),
        "jump": str(case.onset if jump is None or jump.step is None else jump.step),
    }
