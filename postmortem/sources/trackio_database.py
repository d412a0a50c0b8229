"""Trackio's SQLite database, one for each project: the table `metrics` with a JSON object for each row."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.run.manifest import Manifest
from postmortem.run.rows import Collector
from postmortem.run.table import table_of
from postmortem.small_file import parse_json
from postmortem.sources._assemble import assemble, label_names
from postmortem.sources._files import display_name
from postmortem.sources._runs import by_name, only_run
from postmortem.sources._source import Candidate, Confidence, FormatMatch, Source, SourceTable
from postmortem.sources._sqlite import columns, columns_of, opened
from postmortem.text import count, plain

if TYPE_CHECKING:
    import sqlite3

_COLUMNS = frozenset(("timestamp", "run_name", "step", "metrics"))
_MOST_RUNS = 10_000
_MOST_BYTES = 512 * 2**20  # of the metrics of one run


def sniff(candidate: Candidate) -> FormatMatch | None:
    """A SQLite database with Trackio's table of metrics."""
    if columns_of(candidate, "metrics") >= _COLUMNS:
        return FormatMatch(Confidence.CERTAIN, "it is a SQLite database with Trackio's table of metrics")
    return None


def read(path: Path, mapping: Mapping[str, str]) -> Run:
    """The only run of the database.

    Raises:
        SeveralRuns: it has several, newest first.
        UnreadableInput: it has none, or cannot be read.
    """
    with opened(path, "metrics") as database:
        query = _of_key(
            "SELECT {key}, substr(max(run_name), 1, 1000) FROM metrics WHERE length({key}) < 1000 "
            "GROUP BY {key} ORDER BY max(id) DESC LIMIT ?",
            database,
        )
        ids = [(str(run_id), str(name)) for run_id, name in database.execute(query, (_MOST_RUNS,))]
    readers = {name: partial(_read_run, path, mapping, run_id, name) for name, run_id in by_name(ids).items()}
    return only_run("a Trackio database", path, readers)


def _of_key(query: str, database: sqlite3.Connection) -> str:
    """The query with the column that tells runs apart; older versions have no other than the name."""
    return query.format(key="run_id" if "run_id" in columns(database, "metrics") else "run_name")


def _read_run(path: Path, mapping: Mapping[str, str], run_id: str, name: str) -> Run:
    file, labels = display_name(path), label_names(mapping)
    collector = Collector(labels, file=file)
    bad = 0
    with opened(path, "metrics") as database:
        query = _of_key("SELECT step, timestamp, metrics FROM metrics WHERE {key} = ? ORDER BY id", database)
        size = 0
        for step, written, metrics in database.execute(query, (run_id,)):
            size += len(metrics) if isinstance(metrics, (bytes, str)) else 0
            if size > _MOST_BYTES:
                raise UnreadableInput(f"a run of more than {_MOST_BYTES >> 20} MiB, which is the limit.", file=file)
            row = _object(metrics)
            bad += row is None
            collector.add({**(row or {}), "step": step, "time": _seconds(written)})
        config = _config(database, run_id)
    collector.flush()
    notes = collector.notes(file)
    notes += [f"{file}: {count(bad, 'row')} without a JSON object of metrics"] if bad else []
    table = table_of(collector.chunks, file, notes, labels)
    about = Manifest(id=plain(name), config=config)
    return assemble(SOURCE, path, None, SourceTable(table, SOURCE), None, mapping, about=about)


def _config(database: sqlite3.Connection, run_id: str) -> dict[str, object]:
    """The last configuration of a run, without Trackio's own entries, which begin with an underscore."""
    if not columns(database, "configs"):
        return {}
    query = _of_key("SELECT config FROM configs WHERE {key} = ? ORDER BY id DESC LIMIT 1", database)
    row = database.execute(query, (run_id,)).fetchone()
    return {k: value for k, value in ((_object(row[0]) if row else None) or {}).items() if not k.startswith("_")}


def _object(text: object) -> dict[str, object] | None:
    """The JSON object in a cell, which is text or its bytes; NaN and infinity are text in it, and read as numbers."""
    try:
        value = parse_json(text.decode() if isinstance(text, bytes) else str(text), round_integers=True)
    except ValueError:
        return None
    return cast(dict[str, object], value) if isinstance(value, dict) else None


def _seconds(written: object) -> float | None:
    try:
        return datetime.fromisoformat(str(written)).timestamp()
    except (ValueError, OverflowError):
        return None


SOURCE = Source("Trackio", "Trackio's SQLite database", sniff, read)
