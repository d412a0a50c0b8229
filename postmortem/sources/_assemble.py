"""Assembling a `Run` from its tables, journal and manifest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from shlex import quote

import numpy as np

from postmortem.errors import UsageError
from postmortem.run.checkpoints import find_checkpoints
from postmortem.run.columns import PLACEHOLDERS, describe, is_canonical
from postmortem.run.journal import EventLog, read_journal, rewind_targets
from postmortem.run.manifest import Manifest, manifest_file, read_manifest
from postmortem.run.model import Log, Run
from postmortem.run.naming import NO_NAMES, Names, assign_columns, is_label, name_list
from postmortem.run.table import Table
from postmortem.sources._caveats import caveats
from postmortem.sources._files import display_name, require_file
from postmortem.sources._keys import read_keys
from postmortem.sources._losses import with_guessed_loss
from postmortem.sources._several_runs import SeveralRuns, TableOfRuns
from postmortem.sources._source import Candidate, CanonicalNames, DerivedSteps, FormatMatch, Source, SourceTable
from postmortem.text import plain


def row_source(
    name: str,
    accepts: str,
    sniff: Callable[[Candidate], FormatMatch | None],
    table: Callable[[Path, frozenset[str]], Table],
    *,
    columns: CanonicalNames | Callable[[Table, Mapping[str, str]], CanonicalNames] = NO_NAMES,
    steps: Callable[[Table], DerivedSteps | None] | None = None,
    limits: tuple[str, ...] = (),
) -> Source:
    """A source whose format is plain rows in one file; the arguments are those of `Source`."""

    def read(path: Path, mapping: Mapping[str, str]) -> Run:
        require_file(path, display_name(path))
        return assemble(source, path, None, source.rows(path, label_names(mapping)), None, mapping)

    source = Source(name, accepts, sniff, read, table, columns, steps, limits)
    return source


def label_names(mapping: Mapping[str, str]) -> frozenset[str]:
    """The log's own names of the columns that --map makes labels."""
    columns = {name: describe(canonical) for canonical, name in mapping.items()}
    return frozenset(name for name, column in columns.items() if column is not None and column.label)


def assemble(
    source: Source,
    path: Path,
    root: Path | None,
    metrics: SourceTable,
    batches: SourceTable | None,
    mapping: Mapping[str, str],
    notes: Collection[str] = (),
    *,
    beside: tuple[Manifest, EventLog] | None = None,
    about: Manifest | None = None,
) -> Run:
    """Read the files beside the tables, give columns their meaning and rows their keys.

    `root` is the folder of a run that may contain run.json, a journal and checkpoints beside its rows; where there is
    none, `beside` may be its manifest and journal. `about` is what the format itself knows of the run, used where there
    is no run.json.

    Raises:
        UnreadableInput: no step column, no row, an invalid manifest or journal, a path that leads outside the run.
        SeveralRuns: the table has the rows of several runs.
        UsageError: --map names a column that no table has.
    """
    try:
        return _run_of((metrics, batches), source, path, root, mapping, notes, beside or about or Manifest())
    except TableOfRuns as several:
        tables = several.tables

        def read(name: str) -> Run:
            rows = SourceTable(tables[name](), metrics.source)
            run = assemble(source, path, root, rows, batches, mapping, notes, beside=beside, about=about)
            run.id = plain(name) or run.id
            return run

        runs = {name: partial(read, name) for name in tables}
        raise SeveralRuns(several.what, runs, file=metrics.table.display_name) from None


def _run_of(
    rows: tuple[SourceTable, SourceTable | None], source: Source, path: Path, root: Path | None,
    mapping: Mapping[str, str], notes: Collection[str], known: tuple[Manifest, EventLog] | Manifest,
) -> Run:  # fmt: skip
    manifest, journal, file_notes = _files_beside(root, known) if isinstance(known, Manifest) else (*known, ())
    all_notes = [*notes, *file_notes]
    metrics, batches = rows
    table = metrics.table
    _check_mapping(mapping, table, () if batches is None else batches.table.names)
    log = _log(metrics, manifest, mapping, journal, all_notes)
    if "loss" not in log.names.logged_as and not log.names.losses:
        all_notes.append(_no_loss(table, log.names))
    batch_log = None
    if batches is not None and batches.table.rows:
        batch_log = _log(batches, manifest, mapping, journal, all_notes)
    checkpoints, checkpoint_notes = ((), []) if root is None else find_checkpoints(root, journal)
    run = Run(
        path=path,
        root=root,
        source=source.name,
        manifest=manifest,
        journal=journal,
        checkpoints=checkpoints,
        notes=tuple(dict.fromkeys([*all_notes, *checkpoint_notes])),
        metrics=log,
        batches=batch_log,
    )
    run.notes = (*run.notes, *caveats(run, table.display_name))
    return run


def _no_loss(table: Table, names: Names) -> str:
    """A note that no column is a loss; `--map` names the only one that could be it, where there is only one."""
    unknown = [name for name in names.unknown if table.numbers(name) is not None]
    column = quote(plain(unknown[0], 60)) if len(unknown) == 1 else "<column>"
    return (
        f"{table.display_name}: no loss column among {name_list(table.names)}: the other panels are used without it "
        f"(--map loss={column} {'would say that it is one' if len(unknown) == 1 else 'names one'})"
    )


def _files_beside(root: Path | None, about: Manifest) -> tuple[Manifest, EventLog, list[str]]:
    manifest, journal, notes = about, EventLog(), list[str]()
    if root is None:
        return manifest, journal, notes
    path = manifest_file(root)
    if path is not None:
        require_file(path, path.name)
        manifest, notes = read_manifest(path, root)
    file = root / "journal.jsonl"
    if file.exists() and (file.is_dir() or file.stat().st_size):
        require_file(file, file.name)
        journal, journal_notes = read_journal(file)
        notes += journal_notes
    return manifest, journal, notes


def _check_mapping(mapping: Mapping[str, str], metrics: Table, batch_names: Collection[str]) -> None:
    names = tuple(dict.fromkeys((*metrics.names, *batch_names)))
    for canonical, column in mapping.items():
        if not is_canonical(canonical):
            raise UsageError(
                f"--map {plain(canonical, 60)}={plain(column, 60)}: {plain(canonical, 60)} is no canonical column. "
                "docs/run-format.md lists them; the name of the log's own column goes on the right"
            )
        if column not in names:
            raise UsageError(
                f"--map {plain(canonical, 60)}={plain(column, 60)}: {metrics.display_name} has no column "
                f"{plain(column, 60)}. It has: {name_list(names)}"
            )


def _log(rows: SourceTable, manifest: Manifest, mapping: Mapping[str, str], journal: EventLog, notes: list[str]) -> Log:
    """One table with names and keys; appends to `notes`."""
    table = rows.table
    names = assign_columns(table.names, manifest.columns, mapping, table.display_name, rows.canonical_names(mapping))
    names = with_guessed_loss(table, names)
    declared = {mapping.get("step"), *(name for name, canonical in manifest.columns.items() if canonical == "step")}
    is_declared = not declared.isdisjoint(table.names)
    derived = None if is_declared else rows.derived_steps()
    names, keys, key_notes = read_keys(table, names, rewind_targets(journal), derived, declared=is_declared)
    silent = _placeholders(table, names)
    notes += [*table.notes, *(f"{table.display_name}: {limit}" for limit in rows.source.limits)]
    notes += [*names.notes, *key_notes]
    notes += [
        f"{table.display_name}: {name} is {PLACEHOLDERS[name]:g} in every row, which loggers write where it is not "
        "measured: read as not logged"
        for name in silent
    ]
    notes += [
        f"{table.display_name}: {plain(column, 60)} contains text where {name} is a number, as in {example}: "
        "read as not logged"
        for name, column, example in _text_for_numbers(table, names)
    ]
    return Log(table, names, keys, frozenset(silent))


def _text_for_numbers(table: Table, names: Names) -> list[tuple[str, str, str]]:
    """(canonical name, own name, an example) of columns that should have numbers and have text only, such as `2,31`."""
    columns: list[tuple[str, str, str]] = []
    for name, column in names.logged_as.items():
        bounds = table.bounds(column)
        if is_label(name) or (bounds is not None and (bounds.low is not None or bounds.nulls == table.rows)):
            continue
        if table.numbers(column) is None:
            logged = [value for value in table.objects(column) if value is not None]
            columns += [(name, column, repr(plain(logged[0], 30)))] if logged else []
    return columns


def _placeholders(table: Table, names: Names) -> list[str]:
    """The canonical names of columns that contain their placeholder only.

    A norm of 0 is a measurement where the rate is 0 in every row, too, or the loss is the same: nothing is trained.
    """
    silent = [name for name, value in PLACEHOLDERS.items() if _constant(table, names, name) == value]
    if "grad_norm" in silent and (_constant(table, names, "lr") == 0 or _constant(table, names, "loss") is not None):
        silent = [name for name in silent if PLACEHOLDERS[name] != 0]
    return silent


def _constant(table: Table, names: Names, name: str) -> float | None:
    """The one value of all rows that log a column, two or more; None where they differ or are not finite."""
    column = names.logged_as.get(name)
    bounds = None if column is None else table.bounds(column)
    if column is None or (bounds is not None and bounds.low != bounds.high):
        return None
    read = table.numbers(column)
    values = np.zeros(0) if read is None else read.value if read.logged is None else read.value[read.logged]
    return float(values[0]) if values.size > 1 and bool(np.all(values == values[0])) else None
