"""The CSV that W&B's panels export: columns `<run> - <metric>` with `__MIN` and `__MAX` beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from postmortem.errors import UnreadableInput
from postmortem.run.naming import assign, listing
from postmortem.run.table import Table
from postmortem.sources._assemble import row_source
from postmortem.sources._source import Candidate, Confidence, OwnNames, Sniffed
from postmortem.sources.csv_rows import read_table

_COLUMN = re.compile(r"(?P<run>.+?) - (?P<metric>.+?)")
_EXTREME = re.compile(r".*__(MIN|MAX)")


def sniff(candidate: Candidate) -> Sniffed | None:
    """A .csv or .tsv whose header names a metric of a run, and its extremes."""
    if candidate.ending not in (".csv", ".tsv"):
        return None
    header = next((line for line in candidate.head.splitlines() if line.strip()), b"")
    if b" - " not in header or not (b"__MIN" in header or b"__MAX" in header):
        return None
    return Sniffed(Confidence.LIKELY, "its header has W&B's `<run> - <metric>` beside `__MIN` and `__MAX`")


def columns(table: Table, wanted: Mapping[str, str]) -> OwnNames:
    """Own name → canonical name by the names of the metrics; none where --map names one of them itself.

    Raises:
        UnreadableInput: the table is the export of several runs, and no --map says which is meant.
    """
    if not any(_EXTREME.fullmatch(name) for name in table.names):
        return {}
    matches = {name: _COLUMN.fullmatch(name) for name in table.names if not _EXTREME.fullmatch(name)}
    metrics = {name: match["metric"] for name, match in matches.items() if match and match["metric"] != "_step"}
    runs = {match["run"] for match in matches.values() if match}
    if not metrics or any(own in metrics for own in wanted.values()):
        return {}
    if len(runs) > 1:
        raise UnreadableInput(
            f"a W&B export of {len(runs)} runs.",
            file=table.shown,
            hint=f"Say which one is meant, as in --map loss='{next(iter(metrics))}'; columns: {listing(metrics)}",
        )
    by_metric = {metric: name for name, metric in metrics.items()}
    named = assign(tuple(by_metric), {}, {}, table.shown).own
    return {by_metric[metric]: canonical for canonical, metric in named.items()}


SOURCE = row_source("W&B panel export", "", sniff, read_table, columns=columns)
