"""From a cause to the replays that would prove it, and from replays that were driven to what the report says."""

from __future__ import annotations

import dataclasses

from postmortem.case import Case
from postmortem.diagnosis import Prediction
from postmortem.hypotheses import Cause, Seen

AWAY = 40  # batches between a suspect window and the place it is moved to: its effect there is seen apart


def predictions(case: Case, cause: Cause, seen: Seen) -> tuple[Prediction, ...]:
    """What `cause` predicts, with this incident's batches and steps filled in."""
    places = _places(case, cause, seen)
    return tuple(dataclasses.replace(one, change=one.change.format(**places)) for one in cause.predicts)


def remedy(case: Case, cause: Cause, seen: Seen) -> tuple[str, ...]:
    """The changes by which a replay has the cause's fix in it: ("",) where driving it again is enough, () for none."""
    return () if cause.remedy is None else (cause.remedy.format(**_places(case, cause, seen)),)


def _places(case: Case, cause: Cause, seen: Seen) -> dict[str, str]:
    first, last = case.batch_window(cause.skip_rows(case, seen) if cause.skip_rows else None)
    own = [o.step for slug, o in seen.items() if o.step is not None and cause.weights.get(slug, 0.0) > 0 and o.moved]
    return {
        "window": f"{first}:{last}",
        "elsewhere": str(last + AWAY),
        "onset": str(case.onset),
        "step": str(min((step for step in own if step >= case.onset - 10 * case.row_step), default=case.onset)),
    }
