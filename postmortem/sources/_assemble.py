"""From tables, journal and manifest to a `Run`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from postmortem.errors import UsageError
from postmortem.run.checkpoints import find_checkpoints
from postmortem.run.columns import PLACEHOLDERS, describe, is_canonical
from postmortem.run.journal import Event, read_journal, rewind_targets
from postmortem.run.manifest import Manifest, manifest_file, read_manifest
from postmortem.run.model import Log, Run
from postmortem.run.naming import NO_NAMES, Names, assign, is_label, listing
from postmortem.run.table import Table
from postmortem.sources._caveats import noticed
from postmortem.sources._files import require_file, shown
from postmortem.sources._keys import read_keys
from postmortem.sources._source import Candidate, CountedSteps, OwnNames, Sniffed, Source, SourceTable
from postmortem.text import plain


def row_source(
    name: str,
    accepts: str,
    sniff: Callable[[Candidate], Sniffed | None],
    table: Callable[[Path, frozenset[str]], Table],
    *,
    columns: OwnNames | Callable[[Table, Mapping[str, str]], OwnNames] = NO_NAMES,
    steps: Callable[[Table], CountedSteps | None] | None = None,
) -> Source:
    """A source whose format is plain rows in one file; the words are those of `Source`."""

    def read(path: Path, mapping: Mapping[str, str]) -> Run:
        require_file(path, shown(path))
        return assemble(source, path, None, source.rows(path, label_names(mapping)), None, mapping)

    source = Source(name, accepts, sniff, read, table, columns, steps)
    return source


def label_names(mapping: Mapping[str, str]) -> frozenset[str]:
    """The own names of columns that --map makes labels."""
    found = {own: describe(canonical) for canonical, own in mapping.items()}
    return frozenset(own for own, column in found.items() if column is not None and column.label)


def assemble(
    source: Source,
    path: Path,
    root: Path | None,
    metrics: SourceTable,
    batches: SourceTable | None,
    mapping: Mapping[str, str],
    notes: Collection[str] = (),
) -> Run:
    """Read what stands beside the tables, give columns their meaning and rows their keys.

    `root` is the folder of a run that may hold run.json, a journal and checkpoints beside its rows.

    Raises:
        UnreadableInput: no step column, no row, a manifest or journal that is none, a path that leads outside the run.
        UsageError: --map names a column that no table has.
    """
    manifest, journal, said = _beside(root)
    said = [*notes, *said]
    table = metrics.table
    _check_mapping(mapping, table, () if batches is None else batches.table.names)
    log = _log(metrics, manifest, mapping, journal, said)
    if "loss" not in log.names.own:
        said.append(
            f"{table.shown}: no loss column among {listing(table.names)}: the other panels speak without it "
            "(--map loss=<column> names one)"
        )
    other = None if batches is None or not batches.table.rows else _log(batches, manifest, mapping, journal, said)
    checkpoints, found = ((), []) if root is None else find_checkpoints(root, journal)
    run = Run(
        path=path,
        root=root,
        source=source.name,
        manifest=manifest,
        journal=journal,
        checkpoints=checkpoints,
        notes=tuple(dict.fromkeys([*said, *found])),
        metrics=log,
        batches=other,
    )
    run.notes = (*run.notes, *noticed(run, table.shown))
    return run


def _beside(root: Path | None) -> tuple[Manifest, tuple[Event, ...], list[str]]:
    manifest, journal, notes = Manifest(), tuple[Event, ...](), list[str]()
    if root is None:
        return manifest, journal, notes
    named = manifest_file(root)
    if named is not None:
        require_file(named, named.name)
        manifest, notes = read_manifest(named, root)
    file = root / "journal.jsonl"
    if file.exists() and (file.is_dir() or file.stat().st_size):
        require_file(file, file.name)
        journal, said = read_journal(file)
        notes += said
    return manifest, journal, notes


def _check_mapping(mapping: Mapping[str, str], metrics: Table, more: Collection[str]) -> None:
    names = tuple(dict.fromkeys((*metrics.names, *more)))
    for canonical, own in mapping.items():
        if not is_canonical(canonical):
            raise UsageError(
                f"--map {plain(canonical, 60)}={plain(own, 60)}: {plain(canonical, 60)} is no canonical column. "
                "docs/run-format.md lists them; the name of the log's own column stands on the right"
            )
        if own not in names:
            raise UsageError(
                f"--map {plain(canonical, 60)}={plain(own, 60)}: {metrics.shown} has no column {plain(own, 60)}. "
                f"It has: {listing(names)}"
            )


def _log(
    rows: SourceTable, manifest: Manifest, mapping: Mapping[str, str], journal: tuple[Event, ...], notes: list[str]
) -> Log:
    """One table with names and keys; what was noticed is appended to `notes`."""
    table = rows.table
    names = assign(table.names, manifest.columns, mapping, table.shown, rows.own_names(mapping))
    told = {mapping.get("step"), *(own for own, canonical in manifest.columns.items() if canonical == "step")}
    counted = rows.counted() if told.isdisjoint(table.names) else None
    keys, said = read_keys(table, names, rewind_targets(journal), counted)
    silent = _placeholders(table, names)
    notes += [*table.notes, *names.notes, *said]
    notes += [
        f"{table.shown}: {name} is {PLACEHOLDERS[name]:g} throughout, which loggers write where it is not measured: "
        "read as not logged"
        for name in silent
    ]
    notes += [
        f"{table.shown}: {plain(own, 60)} holds text where {name} is a number, as in {example}: read as not logged"
        for name, own, example in _wordy(table, names)
    ]
    return Log(table, names, keys, frozenset(silent))


def _wordy(table: Table, names: Names) -> list[tuple[str, str, str]]:
    """(canonical name, own name, an example) of columns that should hold numbers and hold none, as with `2,31`."""
    found: list[tuple[str, str, str]] = []
    for name, own in names.own.items():
        bounds = table.bounds(own)
        if is_label(name) or (bounds is not None and (bounds.low is not None or bounds.nulls == table.rows)):
            continue
        if table.numbers(own) is None:
            logged = [value for value in table.objects(own) if value is not None]
            found += [(name, own, repr(plain(logged[0], 30)))] if logged else []
    return found


def _placeholders(table: Table, names: Names) -> list[str]:
    found: list[str] = []
    for name, value in PLACEHOLDERS.items():
        own = names.own.get(name)
        bounds = None if own is None else table.bounds(own)
        if own is None or (bounds is not None and (bounds.low != value or bounds.high != value)):
            continue
        read = table.numbers(own)
        if read is None:
            continue
        values = read.value if read.logged is None else read.value[read.logged]
        if values.size and bool(np.all(values == value)):
            found.append(name)
    return found
