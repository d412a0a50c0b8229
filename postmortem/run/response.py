"""What was done about an incident, by the journal: rollbacks, resumes, and changes of settings and data after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from postmortem.change import Change, Window, merge_windows
from postmortem.incident import Occurrence
from postmortem.run.event_meaning import is_half, not_restored, old_and_new, parse_windows, setting_kind, texts
from postmortem.run.event_text import dated, rewind_text
from postmortem.run.journal import Event
from postmortem.run.timeline import Timeline, TimelineEvent, ended_badly

_REWINDS = ("rollback", "resume")
_CHANGES = ("lr_reduction", "config_change", "data_change")


@dataclass(frozen=True)
class Action:
    """One thing that was done: a phrase with its step, its events (a rollback and the resume that carried it out are
    one), the step at which it took effect, and the attempt in which it did: the one that a rollback or resume began."""

    text: str
    events: tuple[Event, ...]
    step: int | None
    attempt: int

    @property
    def skipped(self) -> tuple[Window, ...]:
        """The windows of batches that it left out."""
        return tuple(merge_windows([w for event in self.events for w in parse_windows(event.keys.get("skip"))]))

    @property
    def rewinds(self) -> bool:
        """Whether the run went back."""
        return self.events[0].event in _REWINDS

    @property
    def changes_the_training(self) -> bool:
        """Whether the rows after it can show if it worked: not where the training ended, or its environment changed."""
        return self.rewinds or self.events[0].event in _CHANGES


@dataclass(frozen=True)
class Response:
    """All that was done about an incident, in the order of the journal. Each question about what was done is answered
    by the phrase of the action that did it, or by ""."""

    actions: tuple[Action, ...] = ()

    def rolled_back(self, latest: int, *, complete: bool = False) -> str:
        """That the run went back to step `latest` or earlier; with `complete`, by a resume of which the journal says
        that it restored all of the state."""

        def did(action: Action) -> bool:
            back = action.rewinds and action.step is not None and action.step <= latest
            whole = any(event.event == "resume" and not_restored(event) == () for event in action.events)
            return back and (whole or not complete)

        return self._first(did)

    def skipped(self, window: Window) -> str:
        """That the run left out the batches [first, last)."""
        return self._first(
            lambda action: any(first <= window[0] and window[1] <= last for first, last in action.skipped)
        )

    def lowered_rate(self) -> str:
        """That the learning rate was lowered."""
        return self._first(lambda action: any(map(_lowers_rate, action.events)))

    def changed_data(self) -> str:
        """That the data was changed."""
        return self._first(lambda action: any(_changes(e, "data") or e.event == "data_change" for e in action.events))

    def left_half_precision(self) -> str:
        """That the precision was changed to one whose range is not fp16's."""
        return self._first(
            lambda action: any(_changes(e, "precision") and not is_half(e.keys.get("new")) for e in action.events)
        )

    def lowered_clip(self) -> str:
        """That gradients were clipped lower, or for the first time."""
        return self._first(lambda action: any(map(_lowers_clip, action.events)))

    def _first(self, did: Callable[[Action], bool]) -> str:
        return next((action.text for action in self.actions if did(action)), "")


def response(timeline: Timeline, incident: Occurrence, until: int) -> Response:
    """What was done about `incident` in its attempt up to step `until`, or until an attempt that repeated its steps had
    passed that step."""
    names = (*_REWINDS, *_CHANGES, "environment_change", "kill", "run_end")
    entries = [e for e in timeline.after(incident, until, *names) if e.name != "run_end" or ended_badly(e.event)]
    return Response(tuple(actions(entries)))


def actions(entries: Iterable[TimelineEvent]) -> Iterator[Action]:
    """The events as actions, in their order."""
    pending: TimelineEvent | None = None  # a rollback, until the resume that carries it out
    for entry in entries:
        if pending is not None:
            together = entry.name == "resume" and (entry.attempt, entry.step) == (pending.attempt, pending.step)
            yield _rewind(pending, entry if together else None)
            pending = None
            if together:
                continue
        if entry.name == "rollback":
            pending = entry
        elif entry.name == "resume":
            yield _rewind(None, entry)
        else:
            yield Action(dated(entry.event, entry.step), (entry.event,), entry.step, entry.attempt)
    if pending is not None:
        yield _rewind(pending, None)


def _rewind(rollback: TimelineEvent | None, resume: TimelineEvent | None) -> Action:
    entries = [entry for entry in (rollback, resume) if entry is not None]
    events = tuple(entry.event for entry in entries)
    text = rewind_text(None if rollback is None else rollback.event, None if resume is None else resume.event)
    return Action(text, events, entries[0].step, entries[0].attempt)


def _changes(event: Event, about: str) -> bool:
    return event.event == "config_change" and setting_kind(event.keys.get("key")) == about


def _lowers_rate(event: Event) -> bool:
    old, new = old_and_new(event)
    lower = old is not None and new is not None and new < old
    rate = event.event == "lr_reduction" or (lower and _changes(event, "learning rate"))
    return rate or any(_below_one(change) for change in _replay_changes(event) if change.name == "lr-scale")


def _lowers_clip(event: Event) -> bool:
    old, new = old_and_new(event)
    lower = new is not None and (old is None or new < old)
    return (lower and _changes(event, "clipping")) or any(change.name == "clip" for change in _replay_changes(event))


def _below_one(change: Change) -> bool:
    return any(isinstance(value, (int, float)) and value < 1 for value in change.values)


def _replay_changes(event: Event) -> Iterator[Change]:
    """The changes of a rollback that are written as on the command line."""
    for text in texts(event.keys.get("changes")) or () if event.event == "rollback" else ():
        try:
            yield Change.from_text(text)
        except ValueError:
            continue
