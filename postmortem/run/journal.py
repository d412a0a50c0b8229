"""journal.jsonl: what happened to the run, one event per line.

A run of months has millions of events, of which a report reads a few kinds. So the lines are kept as they were written,
with one number for each thing that is asked of all of them, and an event becomes an object when it is read.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from postmortem.errors import UnreadableInput
from postmortem.run.rows import LineReport, parse_json, read_object_lines
from postmortem.run.values import parse_number
from postmortem.text import plain

KINDS = (
    *("run_start", "reopen", "resume", "rollback", "checkpoint", "checkpoint_deleted", "checkpoint_failed"),
    *("checkpoint_refused", "retention_failed", "best_k_refused", "incident", "config_change", "data_change"),
    *("lr_reduction", "environment_change", "oom", "kill", "recording_degraded", "nonfinite_parameters"),
    *("token_ids_lost", "clock_went_back", "run_end"),
)
"""The names of events that the run format has."""

_CODES = {name: code for code, name in enumerate(KINDS)}
_OTHER = len(KINDS)  # the code of every other kind: names of strangers could be millions
REWIND_TARGETS = {"resume": "from_step", "rollback": "to_step"}
"""Events that go back → the key of the step to which they do."""

_NONE = -1  # where an event has no step, attempt or target


@dataclass(frozen=True)
class Event:
    """One line: `event` is its name, `step` and `time` (unix seconds) say when, `keys` has the rest."""

    event: str
    step: int | None
    time: float | None
    keys: Mapping[str, Any]
    line: int


class EventLog(Sequence[Event]):
    """The events in file order, about 150 bytes each: the line itself, and 37 bytes that are read without parsing it.

    Iterating parses every line. `of`, `steps`, `target` and `attempt` touch only what they are asked for.
    """

    def __init__(self) -> None:
        self.last_time: float | None = None
        self._text = bytearray()
        self._ends = array("q")
        self._lines = array("q")
        self._codes = array("B")
        self._steps, self._attempts, self._targets = array("q"), array("q"), array("q")

    def append(self, line: int, text: bytes, row: Mapping[str, object]) -> None:
        """Add one event: its line, the JSON in it, and that as an object, whose `event` is text."""
        name = cast(str, row["event"])
        self._text += text
        self._ends.append(len(self._text))
        self._lines.append(line)
        self._codes.append(_CODES.get(name, _OTHER))
        self._steps.append(_whole(row.get("step")))
        self._attempts.append(_whole(row["attempt"]) if "attempt" in row else _NONE)
        self._targets.append(_whole(row.get(REWIND_TARGETS[name])) if name in REWIND_TARGETS else _NONE)
        seconds = _seconds(row.get("time"))
        if seconds is not None and (self.last_time is None or seconds > self.last_time):
            self.last_time = seconds

    def extend(self, other: EventLog, more_attempts: int = 0) -> None:
        """Add the events of another journal, whose attempts count from `more_attempts` on."""
        before = len(self._text)
        self._text += other._text
        self._ends.extend(before + end for end in other._ends)
        self._lines.extend(other._lines)
        self._codes.extend(other._codes)
        self._steps.extend(other._steps)
        self._attempts.extend(a if a == _NONE else a + more_attempts for a in other._attempts)
        self._targets.extend(other._targets)
        times = [t for t in (self.last_time, other.last_time) if t is not None]
        self.last_time = max(times, default=None)

    def text(self) -> bytes:
        """The lines as they were written, each with its line end."""
        starts = [0, *self._ends]
        lines = (bytes(self._text[a:b]).rstrip(b"\r\n") for a, b in pairwise(starts))
        return b"".join(line + b"\n" for line in lines)

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Event, ...]: ...
    def __getitem__(self, index: int | slice) -> Event | tuple[Event, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        i = range(len(self))[index]
        text = self._text[self._ends[i - 1] if i else 0 : self._ends[i]]
        row = cast("dict[str, Any]", parse_json(text.decode(), round_integers=True))
        name, time = row.pop("event"), row.pop("time", None)
        row.pop("step", None)
        return Event(name, _or_none(self._steps[i]), _seconds(time), MappingProxyType(row), self._lines[i])

    def __iter__(self) -> Iterator[Event]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Whether it has the same events as another sequence."""
        if not isinstance(other, Sequence):
            return NotImplemented
        events = cast(Sequence[object], other)
        return len(self) == len(events) and all(a == b for a, b in zip(self, events, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType] - Python's own way to say "not hashable"

    def __repr__(self) -> str:
        return f"<EventLog: {len(self)} events>"

    def positions(self, *names: str) -> Iterator[int]:
        """Where events of these names stand. They are names of the format: others have no code and are not found.

        Raises:
            KeyError: a name that the format does not have.
        """
        return iter(np.flatnonzero(self.is_of(*names)).tolist())

    def is_of(self, *names: str) -> NDArray[np.bool_]:
        """bool[n]: which events are of these names; without a name, those of names that the format does not have.

        Raises:
            KeyError: a name that the format does not have.
        """
        wanted = np.zeros(256, np.bool_)
        wanted[[_CODES[name] for name in names] or [_OTHER]] = True
        return wanted[np.frombuffer(self._codes, np.uint8)]

    def numbers(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(step, attempt, target) of each event, int64[n] each, not to be changed; -1 where an event has none."""
        steps, attempts, targets = (np.frombuffer(a, np.int64) for a in (self._steps, self._attempts, self._targets))
        return steps, attempts, targets

    def of(self, *names: str) -> Iterator[Event]:
        """The events of these names; see `positions`."""
        return map(self.__getitem__, self.positions(*names))

    def steps(self, name: str) -> Iterator[int]:
        """The steps of the events of one name that have a step."""
        return (step for step in map(self._steps.__getitem__, self.positions(name)) if step != _NONE)

    def name(self, position: int) -> str:
        """The name of an event, if it is one of the format; else ""."""
        code = self._codes[position]
        return "" if code == _OTHER else KINDS[code]

    def step(self, position: int) -> int | None:
        """The step of an event."""
        return _or_none(self._steps[position])

    def attempt(self, position: int) -> int | None:
        """The attempt that an event names."""
        return _or_none(self._attempts[position])

    def target(self, position: int) -> int | None:
        """The step to which a resume or a rollback returns; None for other events."""
        return _or_none(self._targets[position])

    def targets(self, *names: str) -> Iterator[int]:
        """The steps to which resumes or rollbacks return."""
        return (step for step in map(self._targets.__getitem__, self.positions(*names)) if step != _NONE)


def read_journal(file: Path) -> tuple[EventLog, list[str]]:
    """(events in file order, notes). Unknown events are kept; bad lines and a torn last one are skipped and noted.

    Raises:
        UnreadableInput: no line is an event.
    """
    lines = LineReport(file.name)
    journal = EventLog()
    nameless = first_nameless = 0
    for line, text, row in read_object_lines(file, lines, strict_text=False):
        if isinstance(row.get("event"), str):
            journal.append(line, text, row)
        else:
            nameless, first_nameless = nameless + 1, first_nameless or line
    if not journal and (lines.bad or nameless or lines.torn):
        raise UnreadableInput('no line is an event like {"event": "resume", "step": 300}.', file=plain(file, 1000))
    notes = lines.notes()
    if nameless:
        notes.append(f"{file.name}:{first_nameless}: {nameless} object(s) without an event name were skipped")
    return journal, notes


def events_of(events: Iterable[Event], *names: str) -> Iterator[Event]:
    """The events of these names, which the format has, in a journal or in another sequence of events."""
    if isinstance(events, EventLog):
        return events.of(*names)
    return (event for event in events if event.event in names)


def step_number(value: object) -> int | None:
    """`value` as a step number, or None where it is no whole number from 0 on."""
    return _or_none(_whole(value))


def rewind_targets(journal: EventLog) -> frozenset[int]:
    """Steps to which the journal says that the run went back."""
    return frozenset(journal.targets("resume", "rollback"))


def _whole(value: object) -> int:
    """`value` as a step number, or `_NONE`."""
    if type(value) is int and 0 <= value <= 2**53:  # first: nearly all are
        return value
    read = _number(value)
    return int(read) if read is not None and 0 <= read < 2**63 and read == int(read) else _NONE


def _or_none(step: int) -> int | None:
    return None if step == _NONE else step


def _seconds(value: object) -> float | None:
    return value if type(value) is float and not math.isnan(value) else _number(value)


def _number(value: object) -> float | None:
    try:
        read = parse_number(value)
    except ValueError:
        return None
    return None if read is None or math.isnan(read) else read
