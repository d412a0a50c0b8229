"""JSON lines: one object per row."""

from __future__ import annotations

from pathlib import Path

from postmortem.run.rows import read_jsonl
from postmortem.run.table import Table, table_of
from postmortem.sources._assemble import row_source
from postmortem.sources._files import display_name
from postmortem.sources._shape import counts_steps, json_lines
from postmortem.sources._source import Candidate, Confidence, FormatMatch, by_ending

_any_jsonl = by_ending(".jsonl", ".ndjson")


def sniff(candidate: Candidate) -> FormatMatch | None:
    """Any .jsonl or .ndjson, and under any other name a JSON object in each line.

    detectron2, mmengine, mmdet and fairseq write such lines into .json files.
    """
    match = _any_jsonl(candidate)
    if match is not None or not (objects := json_lines(candidate)):
        return match
    logged = any(counts_steps(row) for row in objects)
    return FormatMatch(Confidence.LIKELY if logged else Confidence.FALLBACK, "each line is a JSON object")


def read_table(path: Path, labels: frozenset[str]) -> Table:
    """All rows. Lines that are no JSON object are left out, counted and noted.

    Raises:
        UnreadableInput: not UTF-8, or no line is a JSON object.
    """
    chunks, notes = read_jsonl(path, display_name(path), strict_text=True, labels=labels)
    return table_of(chunks, display_name(path), notes, labels)


SOURCE = row_source("jsonl", "JSON lines, one object a row", sniff, read_table)
