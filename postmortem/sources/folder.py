"""A bare folder: metrics.csv|jsonl|parquet; batches.*, journal.jsonl and run.json|yaml beside it where they exist."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.run.manifest import MANIFESTS
from postmortem.run.naming import listing
from postmortem.run.table import Table
from postmortem.sources._assemble import assemble, label_names
from postmortem.sources._files import require_file, shown
from postmortem.sources._source import Source
from postmortem.text import plain

_NO_ROWS = {"journal.jsonl", "vocab.json", *MANIFESTS}
# What a folder's log may be called, best first; other .json files are mostly configurations.
_TIERS: tuple[Callable[[Path], bool], ...] = (
    lambda path: path.stem == "metrics",
    lambda path: path.name == "trainer_state.json",
    lambda path: path.suffix.lower() != ".json",
    lambda _: True,
)


def sniff(path: Path) -> bool:
    """Any folder that has no metrics/ of its own."""
    return path.is_dir() and not (path / "metrics").is_dir()


def read(path: Path, mapping: Mapping[str, str]) -> Run:
    """The one log of the folder: metrics.*, or the only file of a known format.

    Raises:
        UnreadableInput: no log, or several of which none is named metrics.
    """
    logs = {p: source for p in sorted(path.iterdir()) if (source := _row_source(p)) is not None}
    labels = label_names(mapping)
    batches = [p for p in logs if p.stem == "batches"]
    others = [p for p in logs if p.stem != "batches" and p.name not in _NO_ROWS]
    chosen = next((tier for wanted in _TIERS if (tier := [p for p in others if wanted(p)])), [])
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
    other = _table(batches[0], logs[batches[0]], labels) if batches and batches[0].stat().st_size else None
    return assemble("folder", path, path, _table(chosen[0], logs[chosen[0]], labels), other, mapping, notes)


def _row_source(path: Path) -> Source | None:
    if path.name.startswith("."):
        return None
    from postmortem.sources import sources  # this module is one of them

    return next((source for source in sources() if source.table is not None and source.sniff(path)), None)


def _table(path: Path, source: Source, labels: frozenset[str]) -> Table:
    require_file(path, shown(path))
    if source.table is None:
        raise TypeError(f"{source.name} reads no rows")
    return source.table(path, labels)


SOURCE = Source("folder", "a folder with metrics.csv, metrics.jsonl or metrics.parquet", sniff, read)
