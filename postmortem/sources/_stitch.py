"""Several logs as one run: pieces of one file, rotated logs, the folders of a run that was restarted elsewhere.

Their rows follow each other as if they stood in one file. Where a log goes back to steps that an earlier one has, those
of the earlier one are a discarded segment.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from postmortem.run import Run
from postmortem.run.history import RowKeys
from postmortem.run.journal import EventLog
from postmortem.run.manifest import Manifest
from postmortem.run.model import Log
from postmortem.run.naming import NO_NAMES, assign_columns, name_list
from postmortem.run.table import Part, Table
from postmortem.run.values import Numbers
from postmortem.sources._assemble import assemble, label_names
from postmortem.sources._copies import Copy, with_header
from postmortem.sources._files import display_name, require_file
from postmortem.sources._keys import read_keys
from postmortem.sources._registry import sources
from postmortem.sources._several_runs import TableOfRuns
from postmortem.sources._source import Candidate, Source, SourceTable


def stitch(runs: Sequence[Run], mapping: Mapping[str, str]) -> Run:
    """One run of the rows of `runs`, two or more in the order of time; `mapping` is --map.

    Names, manifest and format are those of the first. Checkpoints and vocabularies belong to a folder of one run, and
    are left out.

    Raises:
        UnreadableInput: their rows are no run.
        SeveralRuns: they are those of several runs.
        UsageError: --map names a column that no log has.
    """
    first = runs[0]
    shifts = _attempt_shifts(runs) if any("attempt" in run.logs[0].names.logged_as for run in runs) else None
    source = _source(first)
    metrics = SourceTable(_joined([run.logs[0] for run in runs], shifts), source)
    of_batches = [(run.logs[1], k) for k, run in enumerate(runs) if len(run.logs) > 1]
    batch_shifts = None if shifts is None else [shifts[k] for _, k in of_batches]
    batches = SourceTable(_joined([log for log, _ in of_batches], batch_shifts), source) if of_batches else None
    journal = EventLog()
    for k, run in enumerate(runs):
        journal.extend(run.journal, shifts[k] if shifts else 0)
    ident = f"{first.id}+{len(runs) - 1}"
    names = name_list((run.path.name for run in runs), 6)
    notes = [f"one run of {len(runs)} logs, in this order: {names}", *(n for run in runs for n in _copied(run.held))]
    path, beside = first.path.parent / ident, (first.manifest, journal)
    run = assemble(source, path, None, metrics, batches, mapping, notes, beside=beside)
    run.id, run.held = ident, tuple(run.held for run in runs)
    return run


def read_piece(source: Source, path: Path, mapping: Mapping[str, str]) -> Run:
    """The run at `path` as one of several to stitch: of plain rows, only the table is read and not judged, because a
    piece of a log need not be a log. Raises what `Source.rows` or `Source.read` raises."""
    if source.table is None:
        return source.read(path, mapping)
    require_file(path, display_name(path))
    rows = source.rows(path, label_names(mapping))
    try:
        of_format = rows.canonical_names(mapping)
    except TableOfRuns:
        of_format = NO_NAMES
    names = assign_columns(rows.table.names, NO_NAMES, mapping, rows.table.display_name, of_format)
    keys = RowKeys(np.arange(rows.table.rows))
    if {"attempt", "step"} <= names.logged_as.keys():
        names, keys, _ = read_keys(rows.table, names, ())
    return Run(
        path=path,
        root=None,
        source=source.name,
        manifest=Manifest(),
        journal=EventLog(),
        checkpoints=(),
        notes=(),
        metrics=Log(rows.table, names, keys),
        batches=None,
    )


def continuation(first: Path, path: Path) -> Copy | None:
    """A copy of `path` with the header of `first`, where it goes on with the rows of that table without repeating it;
    else None. Raises what `copy_of` raises."""
    header, row = (_first_line(Candidate(each).head) for each in (first, path))
    delimiter = max((b",", b";", b"\t"), key=header.count)
    names, cells = header.split(delimiter), row.split(delimiter)
    if len(names) < 2 or len(names) != len(cells) or any(map(_is_number, names)) or not any(map(_is_number, cells)):
        return None
    if any(cell.strip() and not _is_number(cell) for cell in cells):
        return None
    return with_header(path, header + b"\n")


def _first_line(head: bytes) -> bytes:
    return next((line for line in head.removeprefix(BOM_UTF8).splitlines() if line.strip()), b"")


def _is_number(cell: bytes) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _source(run: Run) -> Source:
    """The format of a run, whose names are those of its rows where it is a folder with rows of some format."""
    source = next(source for source in sources() if source.name == run.source)
    if source.table is not None:
        return source
    return replace(source, columns={name: canonical for canonical, name in run.logs[0].names.logged_as.items()})


def _copied(held: object) -> Sequence[str]:
    """What could not be copied of a gzipped log."""
    return held[0].notes if isinstance(held, tuple) and held and isinstance(held[0], Copy) else ()


def _joined(logs: Sequence[Log], shifts: Sequence[int] | None) -> Table:
    """One table of the rows of several logs; where attempts are logged, `shifts` are added to them."""
    first = logs[0]
    parts: list[Part] = []
    for k, log in enumerate(logs):
        own_names = _own_names(log, first)
        of_log = [part.renamed({n: own for n, own in own_names.items() if own in part}) for part in log.table.parts]
        if shifts is not None:
            of_log = _with_attempts(of_log, first.names.logged_as.get("attempt", "attempt"), shifts[k])
        parts += of_log
    ends = [*accumulate(log.table.rows for log in logs)]
    more = "" if len(logs) == 1 else f" and {len(logs) - 1} more"
    notes = tuple(note for log in logs for note in log.table.notes)
    return Table(f"{first.table.display_name}{more}", tuple(parts), notes, tuple(ends[:-1]))


def _own_names(log: Log, first: Log) -> dict[str, str]:
    """The first log's name → the log's own one, where both have a column of one meaning under different names."""
    if log is first:
        return {}
    pairs = [(first.names.logged_as.get(c), name) for c, name in log.names.logged_as.items()]
    return {
        before: name
        for before, name in pairs
        if before not in (None, name) and before not in log.table.names and name not in first.table.names
    }


def _with_attempts(parts: Sequence[Part], column: str, shift: int) -> list[Part]:
    """The parts with their attempts, 0 where none is logged, shifted."""
    if not shift and all(column in part for part in parts):
        return list(parts)
    out: list[Part] = []
    for part in parts:
        cells = part.load(column) if column in part else None
        value = cells.value if isinstance(cells, Numbers) else np.zeros(part.rows)
        out.append(part.having(column, Numbers(value + shift, None)))
    return out


@dataclass
class _End:
    """Where the logs so far end: the number of their last attempt, and its last step."""

    attempt: int
    step: int


def _attempt_shifts(runs: Sequence[Run]) -> list[int]:
    """What is added to the attempts of each log, so that one that goes back to earlier steps is a later attempt."""
    shifts: list[int] = []
    end: _End | None = None
    for run in runs:
        spans = {s.attempt: (s.first_step, s.last_step) for s in run.segments}
        lowest, highest = min(spans), max(spans)
        shift = 0
        if end is not None and lowest <= end.attempt:
            goes_on = spans[lowest][0] > end.step or (len(run.ranks) > 1 and spans[lowest][0] == end.step)
            shift = end.attempt - lowest + (not goes_on)
        shifts.append(shift)
        end = _End(highest + shift, spans[highest][1])
    return shifts
