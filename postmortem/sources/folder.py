"""A bare folder: metrics.csv|jsonl|parquet, and beside it batches.*, journal.jsonl and run.json|yaml if they exist."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.run.manifest import MANIFESTS
from postmortem.run.naming import name_list
from postmortem.sources._assemble import assemble, label_names
from postmortem.sources._copies import Copy, copy_of, unpacked_name
from postmortem.sources._files import display_name, require_file
from postmortem.sources._registry import SourceMatch, best_matches, only_source
from postmortem.sources._source import Candidate, Confidence, FormatMatch, Source, SourceTable
from postmortem.text import plain

_BESIDE = {"journal.jsonl", "vocab.json", *MANIFESTS}  # files of this format that are no rows


def sniff(candidate: Candidate) -> FormatMatch | None:
    """Any folder."""
    return FormatMatch(Confidence.FALLBACK, "it is a folder") if candidate.is_dir else None


def read(path: Path, mapping: Mapping[str, str]) -> Run:
    """Read the log of the folder: metrics.*, or the file that a format is surest of.

    Raises:
        UnreadableInput: no log, or several logs, and no metrics.* among them.
    """
    logs = {p: matches for p in sorted(path.iterdir()) if (matches := _row_matches(p))}
    stems = {p: Path(unpacked_name(p.name)).stem for p in logs}
    labels = label_names(mapping)
    batches = [p for p in logs if stems[p] == "batches"]
    candidates = [p for p in logs if stems[p] != "batches" and p.name not in _BESIDE]
    confidence = {p: logs[p][0].match.confidence for p in candidates}
    best = max(confidence.values(), default=None)
    chosen = [p for p in candidates if stems[p] == "metrics"] or [p for p in candidates if confidence[p] == best]
    if len(chosen) != 1:
        problem = f"several logs: {name_list(p.name for p in chosen)}." if chosen else "no log of a run in this folder."
        hint = "Give the path of one of them." if chosen else "Expected metrics.csv, metrics.jsonl or metrics.parquet."
        raise UnreadableInput(problem, file=plain(path), hint=hint)
    notes = (
        []
        if stems[chosen[0]] == "metrics"
        else [f"{plain(chosen[0].name)} is the only log of its kind in the folder and was read as its metrics"]
    )
    if len(batches) > 1:
        raise UnreadableInput(f"several logs of batches: {name_list(p.name for p in batches)}.", file=plain(path))
    copies: list[Copy] = []
    batch_rows = _rows(batches[0], logs[batches[0]], labels, copies) if batches and batches[0].stat().st_size else None
    rows = _rows(chosen[0], logs[chosen[0]], labels, copies)
    run = assemble(SOURCE, path, path, rows, batch_rows, mapping, [*notes, *(n for c in copies for n in c.notes)])
    run.held = copies
    return run


def _row_matches(path: Path) -> tuple[SourceMatch, ...]:
    """The surest matches of a file of the folder, of formats that are plain rows."""
    candidate = Candidate(path)
    if path.name.startswith(".") or candidate.is_dir:
        return ()
    return tuple(match for match in best_matches(candidate) if match.source.table is not None)


def _rows(path: Path, matches: tuple[SourceMatch, ...], labels: frozenset[str], copies: list[Copy]) -> SourceTable:
    """The rows of a file of the folder; a copy of a gzipped one is added to `copies`."""
    source = only_source(matches, path)
    copy = copy_of(path)
    if copy is not None:
        copies.append(copy)
        path = copy.path
    require_file(path, display_name(path))
    return source.rows(path, labels)


SOURCE = Source("folder", "a folder with metrics.csv, metrics.jsonl or metrics.parquet", sniff, read)
