"""JSON lines: one object per row."""

from __future__ import annotations

from pathlib import Path

from postmortem.run.rows import read_jsonl
from postmortem.run.table import Table, table_of
from postmortem.sources._assemble import row_source
from postmortem.sources._files import display_name
from postmortem.sources._source import by_ending


def read_table(path: Path, labels: frozenset[str]) -> Table:
    """All rows. Lines that are no JSON object are left out, counted and noted.

    Raises:
        UnreadableInput: not UTF-8, or no line is a JSON object.
    """
    chunks, notes = read_jsonl(path, display_name(path), strict_text=True, labels=labels)
    return table_of(chunks, display_name(path), notes, labels)


SOURCE = row_source("jsonl", "JSON lines (.jsonl, .ndjson)", by_ending(".jsonl", ".ndjson"), read_table)
