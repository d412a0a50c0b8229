"""When the events of a journal happened: in which attempt, at which step, and before or after an incident."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from postmortem.incident import Occurrence
from postmortem.run.history import Segment
from postmortem.run.journal import Event, EventLog

_BEGINNINGS = ("run_start", "reopen", "rollback", "resume")
_MOST_READ = 1_000  # events of one answer: a journal of a stranger may have millions
_NONE = -1
_NO_END = 2**62


@dataclass(frozen=True)
class TimelineEvent:
    """An event with the attempt in which it happened, and the step at which it took effect: its own, the first step
    after a rollback or resume, or that of the attempt that it began with; None where the journal does not say.
    `position` is its place in the journal."""

    event: Event
    attempt: int
    step: int | None
    position: int

    @property
    def name(self) -> str:
        """The name of the event."""
        return self.event.event


class Timeline:
    """The events of a journal, in file order, with their attempts. `segments` are those of the rows.

    The questions take names of the format; without a name, they are about the events of all other names.
    """

    def __init__(self, journal: EventLog, segments: Sequence[Segment]) -> None:
        self._journal = journal
        self._first_steps = {segment.attempt: segment.first_step for segment in segments}

    def of(self, *names: str) -> Iterator[TimelineEvent]:
        """All events of these names."""
        return map(self._read, np.flatnonzero(self._journal.is_of(*names)).tolist())

    def ending(self, resume: TimelineEvent) -> TimelineEvent | None:
        """What ended the training before a resume, if it did not end by itself: the last event between this resume and
        the one before that says that the memory was full, or that the training was killed or failed."""
        before = self._journal.is_of("run_start", "resume")[: resume.position]
        last = int(np.flatnonzero(before)[-1]) if before.any() else 0
        ends = np.flatnonzero(self._journal.is_of("oom", "kill", "run_end", "incident")[: resume.position])
        entries = [self._read(position) for position in ends[ends >= last][-_MOST_READ:].tolist()]
        if entries and entries[-1].name == "run_end" and not ended_badly(entries[-1].event):
            return None
        bad = [entry for entry in entries if ended_badly(entry.event)]
        if len(bad) > 1 and bad[-1].name == "run_end" and bad[-2].name != "run_end":
            steps = [entry.step for entry in bad[-2:] if entry.step is not None]
            return bad[-2] if len(steps) < 2 or abs(steps[1] - steps[0]) <= 1 else bad[-1]
        return bad[-1] if bad else None

    def before(self, incident: Occurrence, steps: int, *names: str) -> list[TimelineEvent]:
        """Events that took effect at the onset, or at most `steps` steps before it, in the history of the incident: an
        event of a stretch that was rolled back before is no part of it, and nor is what happened in a later attempt."""
        attempt, step = self._placed
        near = (step >= max(0, incident.onset_step - steps)) & (step <= incident.onset_step)
        in_history = (attempt <= incident.attempt) & (step < self._kept_until(attempt, incident.attempt))
        return self._picked(self._journal.is_of(*names) & near & in_history, latest=True)

    def after(self, incident: Occurrence, until: int, *names: str) -> list[TimelineEvent]:
        """Events after the onset, up to step `until`. Where the incident was rolled back, this includes all that
        happened until the attempt that repeated its steps had passed them."""
        attempt, step = self._placed
        redone = self.redone_in(incident)
        later = (attempt > incident.attempt) | ((attempt == incident.attempt) & (step > incident.onset_step))
        soon = (step != _NONE) & (step <= until)
        if redone is not None:
            later &= attempt <= redone
            soon |= (attempt > incident.attempt) & (attempt < redone)
        return self._picked(self._journal.is_of(*names) & later & soon)

    def redone_in(self, incident: Occurrence) -> int | None:
        """The attempt that repeated the steps of a rolled-back incident; None where it was not rolled back."""
        if not incident.discarded:
            return None
        later = (a for a, first in self._first_steps.items() if a > incident.attempt and first <= incident.peak_step)
        return min(later, default=None)

    def _picked(self, wanted: NDArray[np.bool_], *, latest: bool = False) -> list[TimelineEvent]:
        """The wanted events, the first or the `latest` ones where they are too many."""
        positions = np.flatnonzero(wanted)
        return [self._read(p) for p in (positions[-_MOST_READ:] if latest else positions[:_MOST_READ]).tolist()]

    def _read(self, position: int) -> TimelineEvent:
        attempt, step = self._placed
        at = int(step[position])
        return TimelineEvent(self._journal[position], int(attempt[position]), None if at == _NONE else at, position)

    def _kept_until(self, attempt: NDArray[np.int64], seen_from: int) -> NDArray[np.int64]:
        """int64[n]: the first step of each attempt that the history of the attempt `seen_from` does not have."""
        later = sorted((a, first) for a, first in self._first_steps.items() if a <= seen_from)
        firsts = np.array([*(first for _, first in later), _NO_END], np.int64)
        soonest = np.minimum.accumulate(firsts[::-1])[::-1]
        return soonest[np.searchsorted(np.array([a for a, _ in later], np.int64), attempt, side="right")]

    @cached_property
    def _placed(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(attempt, step at which it took effect) of each event, int64[n] each; a step of -1 is not known.

        An event without a step took effect with its attempt if no event with a step came before it in the attempt.
        """
        step, own, target = self._journal.numbers()
        position = np.arange(step.size)
        starts, begun = (np.frombuffer(numbers, np.int64) for numbers in self._begun)
        latest = np.searchsorted(starts, position, side="right") - 1
        attempt = np.where(own == _NONE, begun[latest], own)
        step = np.where(target == _NONE, step, target)
        inside = (step != _NONE) & ~self._journal.is_of(*_BEGINNINGS)
        last_inside = np.maximum.accumulate(np.where(inside, position, -1))
        at_start = (step == _NONE) & (last_inside <= starts[latest])
        for number in sorted(set(attempt[at_start].tolist())):
            step[at_start & (attempt == number)] = self._first_steps.get(number, _NONE)
        return attempt, step

    @cached_property
    def _begun(self) -> tuple[array[int], array[int]]:
        """(position, attempt) of each event that begins an attempt, after (-1, the first attempt).

        Where a journal names no attempts, a rollback or resume to the first step of a later attempt began that one; two
        of one name began two.
        """
        current = min(self._first_steps, default=0)
        starts, begun = array("q", [-1]), array("q", [current])
        seen: set[str] = set()
        for position in self._journal.positions(*_BEGINNINGS):
            name, attempt = self._journal.name(position), self._journal.attempt(position)
            target = self._journal.target(position)
            target = self._journal.step(position) if target is None else target
            if attempt is None and name in ("rollback", "resume"):
                later = (a for a, first in self._first_steps.items() if a > current and first == target)
                again = name in seen or self._first_steps.get(current) != target
                attempt = min(later, default=current) if again else current
            if attempt is not None and attempt != current:
                current, seen = attempt, set()
            seen.add(name)
            starts.append(position)
            begun.append(current)
        return starts, begun


def ended_badly(event: Event) -> bool:
    """Whether an event says that a training ended, or could not go on, other than by itself."""
    if event.event == "run_end":
        return event.keys.get("status") not in (None, "completed")
    out_of_memory = event.event == "oom" or (event.event == "incident" and event.keys.get("kind") == "oom")
    return event.event == "kill" or (out_of_memory and event.keys.get("retried") is not True)
