"""MLflow's SQLite database, its default store: `mlflow.db` with the tables `runs`, `metrics` and `params`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.run.manifest import Manifest
from postmortem.run.rows import MOST_COLUMNS
from postmortem.series import Values
from postmortem.sources._assemble import assemble
from postmortem.sources._files import display_name
from postmortem.sources._mlflow import LIMITS, setting
from postmortem.sources._points import MOST_POINTS, Points, points_table, too_many
from postmortem.sources._runs import by_name, only_run
from postmortem.sources._source import Candidate, Confidence, FormatMatch, Source, SourceTable
from postmortem.sources._sqlite import columns_of, opened
from postmortem.text import plain

if TYPE_CHECKING:
    import sqlite3

_COLUMNS = frozenset(("key", "value", "timestamp", "run_uuid", "step", "is_nan"))
_MOST_RUNS, _MOST_PARAMS = 10_000, 4096
_BLOCK = 50_000  # rows that are Python objects at once
_RUNS = """
    SELECT substr(run_uuid, 1, 1000), substr(name, 1, 1000) FROM runs AS r
    WHERE lifecycle_stage IS NOT 'deleted'
    AND EXISTS (SELECT 1 FROM metrics AS m WHERE m.run_uuid = r.run_uuid AND m.key NOT LIKE 'system/%')
    ORDER BY start_time DESC LIMIT ?
"""
_PARAMS = "SELECT substr(key, 1, 1000), substr(value, 1, 10000) FROM params WHERE run_uuid = ? LIMIT ?"
# Any cell may contain text of any length: what is no number becomes a short word, which numpy refuses.
_POINTS = """
    SELECT
        substr(key, 1, 1000),
        CASE WHEN typeof(timestamp) IN ('integer', 'real') THEN timestamp ELSE 'none' END,
        CASE WHEN typeof(value) IN ('integer', 'real') THEN value ELSE 'none' END,
        CASE WHEN typeof(step) IN ('integer', 'real') THEN step ELSE 'none' END,
        is_nan = 1
    FROM metrics WHERE run_uuid = ? AND key NOT LIKE 'system/%' ORDER BY rowid LIMIT ?
"""


def sniff(candidate: Candidate) -> FormatMatch | None:
    """A SQLite database with MLflow's table of metrics."""
    if columns_of(candidate, "metrics") >= _COLUMNS:
        return FormatMatch(Confidence.CERTAIN, "it is a SQLite database with MLflow's table of metrics")
    return None


def read(path: Path, mapping: Mapping[str, str]) -> Run:
    """The only run of the database.

    Raises:
        SeveralRuns: it has several, newest first.
        UnreadableInput: none has metrics, or the database cannot be read.
    """
    with opened(path, "runs", "metrics") as database:
        runs = [(str(uuid), str(name or "")) for uuid, name in database.execute(_RUNS, (_MOST_RUNS,))]
    readers = {name: partial(_read_run, path, mapping, uuid, name) for name, uuid in by_name(runs).items()}
    return only_run("an MLflow database", path, readers)


def _read_run(path: Path, mapping: Mapping[str, str], uuid: str, name: str) -> Run:
    with opened(path, "runs", "metrics", "params") as database:
        metrics = _metrics(database, uuid, path)
        rows = database.execute(_PARAMS, (uuid, _MOST_PARAMS))
        params = {str(key): setting(str(value)) for key, value in rows}
    table = points_table(display_name(path), metrics)
    about = Manifest(id=plain(name), config=params)
    return assemble(SOURCE, path, None, SourceTable(table, SOURCE), None, mapping, about=about)


def _metrics(database: sqlite3.Connection, uuid: str, path: Path) -> dict[str, Points]:
    """The metrics of a run in the order of writing. NaN is 0 with a mark, infinity the largest number."""
    number: dict[str, int] = {}
    blocks: list[Values] = []
    rows = database.execute(_POINTS, (uuid, MOST_POINTS + 1))
    while block := rows.fetchmany(_BLOCK):
        cells = [(number.setdefault(str(key), len(number)), t, v, s, n) for key, t, v, s, n in block]
        try:
            blocks.append(np.array(cells, np.float64))
        except (ValueError, TypeError) as error:
            raise UnreadableInput("its metrics have values that are no numbers.", file=display_name(path)) from error
        if sum(map(len, blocks)) > MOST_POINTS or len(number) > MOST_COLUMNS:
            raise too_many(display_name(path))
    key, time, value, step, is_nan = np.concatenate([np.zeros((0, 5)), *blocks]).T
    value = np.where(np.abs(value) == sys.float_info.max, np.copysign(np.inf, value), value)
    value[is_nan != 0] = np.nan
    order = np.argsort(key, kind="stable")
    ends = np.searchsorted(key[order], np.arange(len(number)), side="right")
    of_each = zip(number, np.split(order, ends[:-1]), strict=True)
    return {name: Points(step[rows], time[rows] / 1000, value[rows]) for name, rows in of_each}


SOURCE = Source("MLflow database", "MLflow's SQLite database (mlflow.db)", sniff, read, limits=LIMITS)
