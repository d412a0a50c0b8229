"""The CSV that W&B's panels export: columns `<run> - <metric>` with `__MIN` and `__MAX` beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from postmortem.errors import UnreadableInput
from postmortem.run.naming import assign, listing
from postmortem.run.table import Table

_COLUMN = re.compile(r"(?P<run>.+?) - (?P<metric>.+?)")
_EXTREME = re.compile(r".*__(MIN|MAX)")


def mapping(table: Table, wanted: Mapping[str, str]) -> Mapping[str, str]:
    """`wanted` (canonical → own name), completed by the metrics' names where the table is the export of one run.

    Raises:
        UnreadableInput: the table is the export of several runs, and no --map says which is meant.
    """
    if not any(_EXTREME.fullmatch(name) for name in table.names):
        return wanted
    matches = {name: _COLUMN.fullmatch(name) for name in table.names if not _EXTREME.fullmatch(name)}
    metrics = {name: match["metric"] for name, match in matches.items() if match and match["metric"] != "_step"}
    runs = {match["run"] for match in matches.values() if match}
    if not metrics or any(own in metrics for own in wanted.values()):
        return wanted
    if len(runs) > 1:
        raise UnreadableInput(
            f"a W&B export of {len(runs)} runs.",
            file=table.shown,
            hint=f"Say which one is meant, as in --map loss='{next(iter(metrics))}'; columns: {listing(metrics)}",
        )
    by_metric = {metric: name for name, metric in metrics.items()}
    named = assign(tuple(by_metric), {}, {}, table.shown).own
    return {**{canonical: by_metric[metric] for canonical, metric in named.items()}, **wanted}
