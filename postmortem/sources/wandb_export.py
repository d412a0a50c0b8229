"""The CSV that W&B's panels export: columns `<run> - <metric>` with `__MIN` and `__MAX` beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from postmortem.errors import UnreadableInput
from postmortem.run.naming import assign_columns, name_list
from postmortem.run.table import Table
from postmortem.sources._assemble import row_source
from postmortem.sources._source import Candidate, CanonicalNames, Confidence, FormatMatch
from postmortem.sources.csv_rows import read_table

_COLUMN = re.compile(r"(?P<run>.+?) - (?P<metric>.+?)")
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
        UnreadableInput: the table is the export of several runs, and --map does not name one of them.
    """
    if not any(_EXTREME.fullmatch(name) for name in table.names):
        return {}
    matches = {name: _COLUMN.fullmatch(name) for name in table.names if not _EXTREME.fullmatch(name)}
    metrics = {name: match["metric"] for name, match in matches.items() if match and match["metric"] != "_step"}
    runs = {match["run"] for match in matches.values() if match}
    if not metrics or any(name in metrics for name in mapping.values()):
        return {}
    if len(runs) > 1:
        raise UnreadableInput(
            f"a W&B export of {len(runs)} runs.",
            file=table.display_name,
            hint=f"Say which one is meant, as in --map loss='{next(iter(metrics))}'; columns: {name_list(metrics)}",
        )
    by_metric = {metric: name for name, metric in metrics.items()}
    named = assign_columns(tuple(by_metric), {}, {}, table.display_name).logged_as
    return {by_metric[metric]: canonical for canonical, metric in named.items()}


SOURCE = row_source("W&B panel export", "", sniff, read_table, columns=columns)
