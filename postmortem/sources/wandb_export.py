"""The CSV that W&B's panels export: columns `<run> - <metric>` with `__MIN` and `__MAX` beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from postmortem.run.naming import assign_columns
from postmortem.run.table import Table
from postmortem.sources._assemble import row_source
from postmortem.sources._several_runs import TableOfRuns
from postmortem.sources._source import Candidate, CanonicalNames, Confidence, FormatMatch
from postmortem.sources.csv_rows import read_table

_COLUMN = re.compile(r"(?P<run>.+?) - (?P<metric>.+?)(?P<extreme>__MIN|__MAX)?")
_EXTREME = re.compile(r".*__(MIN|MAX)")


def sniff(candidate: Candidate) -> FormatMatch | None:
    """A .csv or .tsv whose header names a metric of a run, and its extremes."""
    if candidate.ending not in (".csv", ".tsv"):
        return None
    header = next((line for line in candidate.head.splitlines() if line.strip()), b"")
    if b" - " not in header or not (b"__MIN" in header or b"__MAX" in header):
        return None
    return FormatMatch(Confidence.LIKELY, "its header has W&B's `<run> - <metric>` beside `__MIN` and `__MAX`")


def columns(table: Table, mapping: Mapping[str, str]) -> CanonicalNames:
    """Own name → canonical name, by the names of the metrics; {} where --map names one of them itself.

    Raises:
        TableOfRuns: the table is the export of several runs, and --map does not name one of them.
    """
    if not any(_EXTREME.fullmatch(name) for name in table.names):
        return {}
    matches = {name: match for name in table.names if (match := _COLUMN.fullmatch(name)) is not None}
    metrics = {
        n: match["metric"] for n, match in matches.items() if match["metric"] != "_step" and not match["extreme"]
    }
    if not metrics or any(name in metrics for name in mapping.values()):
        return {}
    runs = tuple(dict.fromkeys(matches[name]["run"] for name in metrics))
    if len(runs) > 1:
        of_run = {run: [name for name in metrics if matches[name]["run"] == run] for run in runs}
        shared = [name for name in table.names if name not in matches]
        tables = {run: partial(_table_of_run, table, shared, names) for run, names in of_run.items()}
        raise TableOfRuns(f"a W&B export of {len(runs)} runs", tables)
    by_metric = {metric: name for name, metric in metrics.items()}
    named = assign_columns(tuple(by_metric), {}, {}, table.display_name).logged_as
    return {by_metric[metric]: canonical for canonical, metric in named.items()}


def _table_of_run(table: Table, shared: Sequence[str], metrics: Sequence[str]) -> Table:
    """The columns of one run, in the rows that log one of its metrics, and those that all runs share."""
    logged = np.zeros(table.rows, np.bool_)
    for name in metrics:
        numbers = table.numbers(name)
        if numbers is not None:
            logged[slice(None) if numbers.logged is None else numbers.logged] = True
    extremes = [f"{name}{end}" for name in metrics for end in ("__MIN", "__MAX") if f"{name}{end}" in table.names]
    return table.at(np.flatnonzero(logged), (*shared, *metrics, *extremes))


SOURCE = row_source("W&B panel export", "", sniff, read_table, columns=columns)
