"""Finds changes of a replay that cannot change anything in its steps: such a replay is no failed cure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from postmortem.change import Change, Window, format_window, merge_windows, overlap
from postmortem.interventions import ReplayContext, build_intervention
from postmortem.run.recorded import ChangeSet

_FEW = 4  # windows that are listed


@dataclass(frozen=True)
class IdleChange:
    """A change in words, and why it changes nothing in the replayed steps."""

    text: str
    reason: str


def idle_changes(changes: Sequence[Change], context: ReplayContext) -> tuple[IdleChange, ...]:
    """Those of `changes` that cannot act in the replayed steps, as far as that is known before they are driven.

    Raises:
        UsageError: a change does not exist, or does not fit the run's config.
    """
    idle: list[IdleChange] = []
    for number, change in enumerate(changes):
        intervention = build_intervention(change)
        others = (*changes[:number], *changes[number + 1 :])
        reason = intervention.idle(context, _batches_consumed(others, context))
        if reason:
            idle.append(IdleChange(intervention.text, reason))
    return tuple(idle)


def idle_windows(changes: Sequence[Change], context: ReplayContext) -> tuple[Window, ...]:
    """The windows of batches in `changes` of which the replayed steps consume none, where another window acts."""
    missed: list[Window] = []
    for number, change in enumerate(changes):
        consumed = _batches_consumed((*changes[:number], *changes[number + 1 :]), context)
        if len(change.windows) > 1:
            missed += [window for window in change.windows if not overlap((window,), consumed)]
    return merge_windows(missed)


def batches_text(context: ReplayContext, changes: Sequence[Change] = ()) -> str:
    """`steps [300, 340), which consume batches [300, 312), [313, 341)`, where `changes` act."""
    consumed = _batches_consumed(changes, context)
    more = f" and {len(consumed) - _FEW} more windows" if len(consumed) > _FEW else ""
    listed = ", ".join(map(format_window, consumed[:_FEW]))
    return f"steps {format_window((context.from_step, context.until))}, which consume batches {listed}{more}"


def _batches_consumed(changes: Sequence[Change], context: ReplayContext) -> tuple[Window, ...]:
    """The windows of batches that the replayed steps consume under `changes` and those of the run's own history."""
    recorded, start, until = context.recorded, context.from_step, context.until
    earlier = [each for each in recorded.earlier_change_sets if each.from_step < until]
    stops = sorted({start, *(each.from_step for each in earlier if each.from_step > start)})
    position = recorded.batch_index_at(start)
    consumed: list[Window] = []
    for stop, end in zip(stops, (*stops[1:], until), strict=True):
        active = [*changes, *_changes_until(earlier, stop)]
        skipped = [window for change in active for window in build_intervention(change).windows(context)]
        windows, position = _consume(position, end - stop, skipped)
        consumed += windows
    return merge_windows(consumed)


def _changes_until(change_sets: Iterable[ChangeSet], step: int) -> list[Change]:
    return [change for each in change_sets if each.from_step <= step for change in each.changes]


def _consume(position: int, steps: int, skipped: Iterable[Window]) -> tuple[list[Window], int]:
    """(the windows that `steps` steps consume from `position` on, the position after them)."""
    consumed: list[Window] = []
    for first, last in merge_windows([*skipped]):
        if last <= position:
            continue
        if first >= position + steps:
            break
        if first > position:
            consumed.append((position, first))
            steps -= first - position
        position = last
    if steps:
        consumed.append((position, position + steps))
    return consumed, position + steps
