"""A text log: whatever a training printed, with metric lines in it of any shape that has keys and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from postmortem.dialects import dialects_of
from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.run.table import Table, table_of
from postmortem.small_file import open_regular
from postmortem.sources._assemble import assemble, label_names
from postmortem.sources._files import display_name, require_file
from postmortem.sources._source import Candidate, CanonicalNames, Confidence, FormatMatch, Source, SourceTable
from postmortem.sources._text_lines import MetricLines, blocks_of
from postmortem.text import count, listed

_TABLES = frozenset((".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet"))
_USUAL = frozenset((".log", ".txt", ".out", ".err"))


def sniff(candidate: Candidate) -> FormatMatch | None:
    """Text with a metric line in its head; or with the ending that such logs have, since many begin with a preamble."""
    head = candidate.head
    if not head or b"\0" in head or candidate.ending in _TABLES or head.lstrip()[:2] in (b'{"', b"[{"):
        return None
    lines = MetricLines()
    lines.add(head[: head.rfind(b"\n") + 1] or head, 0)
    if lines.rows:
        return FormatMatch(Confidence.LIKELY, "it has lines with a loss")
    if candidate.ending in _USUAL or candidate.ending.lstrip(".").isdigit():
        return FormatMatch(Confidence.FALLBACK, f"its name ends in {candidate.ending}")
    return None


def read(path: Path, mapping: Mapping[str, str]) -> Run:
    """Read the metric lines; those that contain a key of --map count as such."""
    require_file(path, display_name(path))
    table = read_table(path, label_names(mapping), mapping.values())
    return assemble(SOURCE, path, None, SourceTable(table, SOURCE), None, mapping)


def read_table(path: Path, labels: frozenset[str], keywords: Iterable[str] = ()) -> Table:
    """All metric lines, one row each; a column for each key. `keywords` are further words of such lines.

    Raises:
        UnreadableInput: binary data, or no metric line.
    """
    name = display_name(path)
    lines = MetricLines(keywords)
    with open_regular(path, name) as file:
        for offset, block in blocks_of(file, name):
            lines.add(block, offset)
    if not lines.rows:
        raise UnreadableInput(
            "no known kind of run: text, and no line with a loss and a number, such as `step 10: loss 2.31`.",
            file=name,
            hint="Name the key that the log uses for it: --map loss=<key>",
        )
    notes = [f"{name}: its lines are those of {listed([d.name for d in lines.dialects])}"] if lines.dialects else []
    notes += [f"{name}: {limit}" for dialect in lines.dialects for limit in dialect.limits]
    if lines.skipped:
        notes.append(
            f"{name}: left out {count(lines.skipped, 'line')} that may have metrics: longer than 16 KiB, or of more "
            "shapes than are read"
        )
    return table_of([lines.chunk()], name, notes, labels)


def columns(table: Table, _: Mapping[str, str]) -> CanonicalNames:
    """The names of the log's dialects."""
    return {own: name for dialect in reversed(dialects_of(table.names)) for own, name in dialect.columns.items()}


SOURCE = Source(
    "text log", "a text log with lines such as `step 10 | loss 2.31`", sniff, read, table=read_table, columns=columns
)
