"""journal.jsonl: what happened to the run, one event per line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from postmortem.errors import UnreadableInput
from postmortem.run.rows import LineReport, read_objects
from postmortem.run.values import parse_number
from postmortem.text import plain


@dataclass(frozen=True)
class Event:
    """One line: `event` is its name, `step` and `time` (unix seconds) say when, `keys` has the rest."""

    event: str
    step: int | None
    time: float | None
    keys: Mapping[str, Any]
    line: int


def read_journal(file: Path) -> tuple[tuple[Event, ...], list[str]]:
    """(events in file order, notes). Unknown events are kept; bad lines and a torn last one are skipped and noted.

    Raises:
        UnreadableInput: no line is an event.
    """
    lines = LineReport(file.name)
    events: list[Event] = []
    nameless: list[int] = []
    for line, row in read_objects(file, lines, strict_text=False):
        name = row.get("event")
        if not isinstance(name, str):
            nameless.append(line)
            continue
        rest = {key: value for key, value in row.items() if key not in ("event", "step", "time")}
        events.append(Event(name, step_number(row.get("step")), _number(row.get("time")), MappingProxyType(rest), line))
    if not events and (lines.bad or nameless or lines.torn):
        raise UnreadableInput('no line is an event like {"event": "resume", "step": 300}.', file=plain(file, 1000))
    notes = lines.notes()
    if nameless:
        notes.append(f"{file.name}:{nameless[0]}: {len(nameless)} object(s) without an event name were skipped")
    return tuple(events), notes


def step_number(value: object) -> int | None:
    """`value` as a step number, or None where it is no whole number from 0 on."""
    read = _number(value)
    return int(read) if read is not None and 0 <= read < 2**63 and read == int(read) else None


def rewind_targets(events: Sequence[Event]) -> frozenset[int]:
    """Steps to which the journal says that the run went back."""
    targets = [step_number(e.keys.get("from_step")) if e.event == "resume" else None for e in events]
    targets += [step_number(e.keys.get("to_step")) if e.event == "rollback" else None for e in events]
    return frozenset(step for step in targets if step is not None)


def _number(value: object) -> float | None:
    try:
        read = parse_number(value)
    except ValueError:
        return None
    return None if read is None or math.isnan(read) else read
