"""The journal keeps lines, and makes events of them on demand."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from postmortem.run.journal import Event, EventLog, events_of, read_journal, rewind_targets


def journal_of(tmp_path: Path, *rows: dict[str, Any]) -> EventLog:
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_journal(tmp_path / "journal.jsonl")[0]


def test_events_are_what_their_lines_say(tmp_path: Path) -> None:
    rows = (
        {"event": "resume", "step": 5.0, "time": 7, "from_step": "5", "attempt": 1},
        {"event": "noted", "step": -1, "time": None, "x": [1]},
        {"event": "rollback", "to_step": 3, "step": True},
    )
    journal = journal_of(tmp_path, *rows)
    assert list(journal) == [
        Event("resume", 5, 7.0, {"from_step": "5", "attempt": 1}, 1),
        Event("noted", None, None, {"x": [1]}, 2),
        Event("rollback", 1, None, {"to_step": 3}, 3),
    ]
    assert journal == list(journal) and journal[-1] == journal[2] and journal[:2] == tuple(journal)[:2]
    assert journal != [journal[0]] and journal != 3 and EventLog() == ()
    with pytest.raises(IndexError):
        journal[3]
    assert [e.line for e in journal.of("rollback", "resume")] == [1, 3]
    assert rewind_targets(journal) == {5, 3} and journal.attempt(0) == 1 and journal.attempt(1) is None
    assert (journal.last_time, list(journal.steps("resume")), journal.name(1)) == (7.0, [5], "")
    assert list(events_of(list(journal), "resume")) == [journal[0]]
    with pytest.raises(KeyError):
        journal.of("noted")


def test_an_event_takes_little_more_memory_than_its_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    rows = ({"event": f"custom_{i}", "step": i, "time": i / 7, "note": [i] * 20} for i in range(20_000))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tracemalloc.start()
    journal, _ = read_journal(path)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(journal) == 20_000 and kept < 1.3 * path.stat().st_size + 64 * len(journal)
