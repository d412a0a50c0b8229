"""From tables, journal and manifest to a `Run`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from postmortem.errors import UsageError
from postmortem.run.checkpoints import find_checkpoints
from postmortem.run.columns import KEYS, PLACEHOLDERS, describe
from postmortem.run.journal import Event, read_journal, rewind_targets
from postmortem.run.manifest import Manifest, manifest_file, read_manifest
from postmortem.run.model import Log, Run
from postmortem.run.naming import Names, assign, is_label, listing
from postmortem.run.table import Table
from postmortem.sources import _wandb_export
from postmortem.sources._files import require_file, shown
from postmortem.sources._keys import read_keys
from postmortem.sources._noticing import noticed
from postmortem.sources._source import Source
from postmortem.text import plain


def run_of_file(source: str, path: Path, table: Table, mapping: Mapping[str, str]) -> Run:
    """A run that is one file of rows."""
    return assemble(source, path, None, table, None, mapping)


def row_source(
    name: str, accepts: str, sniff: Callable[[Path], bool], table: Callable[[Path, frozenset[str]], Table]
) -> Source:
    """A source whose format is plain rows in one file."""

    def read(path: Path, mapping: Mapping[str, str]) -> Run:
        require_file(path, shown(path))
        return run_of_file(name, path, table(path, label_names(mapping)), mapping)

    return Source(name, accepts, sniff, read, table)


def label_names(mapping: Mapping[str, str]) -> frozenset[str]:
    """The own names of columns that --map makes labels."""
    found = {own: describe(canonical) for canonical, own in mapping.items()}
    return frozenset(own for own, column in found.items() if column is not None and column.label)


def assemble(
    source: str,
    path: Path,
    root: Path | None,
    metrics: Table,
    batches: Table | None,
    mapping: Mapping[str, str],
    notes: Collection[str] = (),
) -> Run:
    """Read what stands beside the tables, give columns their meaning and rows their keys.

    Raises:
        UnreadableInput: no step column, no row, a manifest or journal that is none, a path that leads outside the run.
        UsageError: --map names a column that no table has.
    """
    manifest, journal, said = _beside(root)
    said = [*notes, *said]
    _check_mapping(mapping, metrics, batches)
    log = _log(metrics, manifest, mapping, journal, said)
    if "loss" not in log.names.own:
        said.append(
            f"{metrics.shown}: no loss column among {listing(metrics.names)}: the other panels speak without it "
            "(--map loss=<column> names one)"
        )
    other = None if batches is None or not batches.rows else _log(batches, manifest, mapping, journal, said)
    checkpoints, found = ((), []) if root is None else find_checkpoints(root, journal)
    run = Run(
        path=path,
        root=root,
        source=source,
        manifest=manifest,
        journal=journal,
        checkpoints=checkpoints,
        notes=tuple(dict.fromkeys([*said, *found])),
        metrics=log,
        batches=other,
    )
    run.notes = (*run.notes, *noticed(run, metrics.shown))
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


def _check_mapping(mapping: Mapping[str, str], metrics: Table, batches: Table | None) -> None:
    names = tuple(dict.fromkeys((*metrics.names, *(() if batches is None else batches.names))))
    for canonical, own in mapping.items():
        if canonical not in KEYS and describe(canonical) is None:
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
    table: Table, manifest: Manifest, mapping: Mapping[str, str], journal: tuple[Event, ...], notes: list[str]
) -> Log:
    """One table with names and keys; what was noticed is appended to `notes`."""
    wanted = _wandb_export.mapping(table, mapping)
    names = assign(table.names, manifest.columns, wanted, table.shown)
    keys, said = read_keys(table, names, rewind_targets(journal))
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
