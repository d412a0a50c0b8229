"""A bare folder: metrics.csv|jsonl|parquet; batches.*, journal.jsonl and run.json|yaml beside it where they exist."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.run.manifest import MANIFESTS
from postmortem.run.naming import listing
from postmortem.sources._assemble import assemble, label_names
from postmortem.sources._files import require_file, shown
from postmortem.sources._registry import FormatClaim, decided, surest
from postmortem.sources._source import Candidate, Confidence, Sniffed, Source, SourceTable
from postmortem.text import plain

_BESIDE = {"journal.jsonl", "vocab.json", *MANIFESTS}  # what this format itself puts beside its rows


def sniff(candidate: Candidate) -> Sniffed | None:
    """Any folder."""
    return Sniffed(Confidence.FALLBACK, "it is a folder") if candidate.is_dir else None


def read(path: Path, mapping: Mapping[str, str]) -> Run:
    """The one log of the folder: metrics.*, or the file that a format is surest of.

    Raises:
        UnreadableInput: no log, or several of which none is named metrics.
    """
    logs = {p: claims for p in sorted(path.iterdir()) if (claims := _row_claims(p))}
    labels = label_names(mapping)
    batches = [p for p in logs if p.stem == "batches"]
    others = [p for p in logs if p.stem != "batches" and p.name not in _BESIDE]
    sure = {p: logs[p][0].sniffed.confidence for p in others}
    best = max(sure.values(), default=None)
    chosen = [p for p in others if p.stem == "metrics"] or [p for p in others if sure[p] == best]
    if len(chosen) != 1:
        what = f"several logs: {listing(p.name for p in chosen)}." if chosen else "no log of a run in this folder."
        hint = "Give the path of one of them." if chosen else "Expected metrics.csv, metrics.jsonl or metrics.parquet."
        raise UnreadableInput(what, file=plain(path), hint=hint)
    notes = (
        []
        if chosen[0].stem == "metrics"
        else [f"{plain(chosen[0].name)} is the only log of its kind in the folder and was read as its metrics"]
    )
    if len(batches) > 1:
        raise UnreadableInput(f"several logs of batches: {listing(p.name for p in batches)}.", file=plain(path))
    other = _rows(batches[0], logs[batches[0]], labels) if batches and batches[0].stat().st_size else None
    return assemble(SOURCE, path, path, _rows(chosen[0], logs[chosen[0]], labels), other, mapping, notes)


def _row_claims(path: Path) -> tuple[FormatClaim, ...]:
    """The surest claims on a file of the folder, of formats that are plain rows."""
    candidate = Candidate(path)
    if path.name.startswith(".") or candidate.is_dir:
        return ()
    return tuple(claim for claim in surest(candidate) if claim.source.table is not None)


def _rows(path: Path, claims: tuple[FormatClaim, ...], labels: frozenset[str]) -> SourceTable:
    source = decided(claims, path)
    require_file(path, shown(path))
    return source.rows(path, labels)


SOURCE = Source("folder", "a folder with metrics.csv, metrics.jsonl or metrics.parquet", sniff, read)
