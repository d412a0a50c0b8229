"""The run directory of docs/run-format.md: metrics/ and batches/ as Parquet parts and live JSONL tails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.run.manifest import inside
from postmortem.run.parquet import parquet_part
from postmortem.run.parts import parts, tails
from postmortem.run.rows import read_jsonl
from postmortem.run.table import Part, Table, memory_part
from postmortem.sources._assemble import assemble, label_names
from postmortem.sources._files import require_file
from postmortem.sources._source import Candidate, Confidence, FormatMatch, Source, SourceTable
from postmortem.text import plain


def sniff(candidate: Candidate) -> FormatMatch | None:
    """A folder with a folder metrics/ in it."""
    folder = candidate.path / "metrics"
    if not folder.is_dir():
        return None
    if parts(folder) or tails(folder):
        return FormatMatch(Confidence.CERTAIN, "its metrics/ contains parts or tails of a run directory")
    return FormatMatch(Confidence.POSSIBLE, "it has a folder metrics/")


def read(path: Path, mapping: Mapping[str, str]) -> Run:
    """Read parts and tails of metrics/ and batches/, and the files beside them.

    Raises:
        UnreadableInput: no rows yet, a corrupt part, or what `assemble` cannot read.
    """
    labels = label_names(mapping)
    metrics = _store(path / "metrics", labels)
    if not metrics.rows:
        raise UnreadableInput("metrics/ has no rows.", file=plain(path), hint="Has the run logged a step yet?")
    batches = _store(path / "batches", labels) if (path / "batches").is_dir() else None
    batch_rows = None if batches is None else SourceTable(batches, SOURCE)
    return assemble(SOURCE, path, path, SourceTable(metrics, SOURCE), batch_rows, mapping)


def _store(folder: Path, labels: frozenset[str]) -> Table:
    """One table. Tails are read first: a tail that is compacted in the meantime is then among the parts."""
    live: list[Part] = []
    notes: list[str] = []
    for tail in tails(folder):
        name = f"{folder.name}/{tail.name}"
        inside(folder.parent, name, name)
        if not tail.is_file():
            continue
        try:
            chunks, tail_notes = read_jsonl(tail, name, strict_text=False, labels=labels)
        except FileNotFoundError:
            continue
        live += [memory_part(chunk) for chunk in chunks]
        notes += tail_notes
    stored: list[Part] = []
    for part in parts(folder):
        name = f"{folder.name}/{part.name}"
        inside(folder.parent, name, name)
        require_file(part, name)
        stored.append(parquet_part(part, name, labels))
    return Table(f"{folder.name}/", (*stored, *live), tuple(notes))


SOURCE = Source("run directory", "a run directory with metrics/ in it", sniff, read)
