"""A JSON file of rows: Hugging Face's trainer_state.json with its `log_history`, or a plain list of objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from postmortem.errors import UnreadableInput
from postmortem.run.rows import Collector
from postmortem.run.table import Table, table_of
from postmortem.small_file import parse_json, read_text
from postmortem.sources._assemble import row_source
from postmortem.sources._files import display_name, require_text
from postmortem.sources._source import Candidate, Confidence, FormatMatch, by_ending
from postmortem.text import count, plain

_LIMIT = 512 * 2**20  # bytes
_AS_LINES = "Write the rows as JSON lines (.jsonl): those are read at any size."
_any_json = by_ending(".json", confidence=Confidence.FALLBACK)


def sniff(candidate: Candidate) -> FormatMatch | None:
    """Any .json, though most are configurations; a trainer_state.json is Hugging Face's."""
    match = _any_json(candidate)
    if match is not None and candidate.name == "trainer_state.json":
        return FormatMatch(Confidence.CERTAIN, "Hugging Face's Trainer gives its log this name")
    return match


def read_table(path: Path, labels: frozenset[str]) -> Table:
    """All rows. Bare NaN, which Hugging Face writes and JSON forbids, is read as non-finite.

    Raises:
        UnreadableInput: not JSON, or JSON without rows.
    """
    name = display_name(path)
    require_text(path, name)
    text = read_text(path, name=name, limit=_LIMIT, hint=_AS_LINES)
    try:
        value = parse_json(text, round_integers=True)
    except json.JSONDecodeError as error:
        raise UnreadableInput(f"not JSON ({error.msg}).", file=name, line=error.lineno) from error
    except ValueError as error:
        raise UnreadableInput(f"cannot be read ({plain(error, 120)}).", file=name, hint=_AS_LINES) from error
    if isinstance(value, dict):
        value = cast(dict[str, object], value).get("log_history")
    if not isinstance(value, list):
        raise UnreadableInput("has no rows: neither a list of objects nor a log_history.", file=name)
    collector = Collector(labels, file=name)
    entries = cast(list[object], value)
    for row in entries:
        if isinstance(row, dict):
            collector.add(cast(dict[str, object], row))
    collector.flush()
    if not collector.rows:
        raise UnreadableInput("has no rows.", file=name)
    notes = collector.notes(name)
    if collector.rows < len(entries):
        skipped = len(entries) - collector.rows
        notes.append(f"{name}: skipped {count(skipped, 'entry that is no object', 'entries that are no objects')}")
    return table_of(collector.chunks, name, notes, labels)


SOURCE = row_source(
    "json",
    "Hugging Face's trainer_state.json, or a JSON list of objects (.json)",
    sniff,
    read_table,
)
