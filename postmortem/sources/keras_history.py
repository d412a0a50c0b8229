"""A JSON object of lists, one value an epoch each: the `history` of Keras, and what other loops collect in lists."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np

from postmortem.errors import UnreadableInput
from postmortem.run.loss_names import loss_name
from postmortem.run.naming import assign_columns, name_list
from postmortem.run.rows import MOST_COLUMNS, Chunk, dropped_notes
from postmortem.run.table import Table, table_of
from postmortem.run.values import Cells, Numbers, cells_of
from postmortem.sources._assemble import row_source
from postmortem.sources._files import display_name
from postmortem.sources._shape import counts_steps, json_lines
from postmortem.sources._source import Candidate, Confidence, DerivedSteps, FormatMatch
from postmortem.sources.json_rows import read_value

_FIRST = re.compile(rb'\A(?:\xef\xbb\xbf)?\s*\{\s*"[^"\n]{1,80}"\s*:\s*(?:\[\s*"?(?:-?\d|NaN|null|-?Inf)|\{\s*"0"\s*:)')
_KEY = re.compile(rb'"([^"\n]{1,80})"\s*:\s*[\[{]')
_MOST_BLANK = 0.1
"""Share of a column that may be missing at its end, as after a crash; a shorter list counts something else."""


def sniff(candidate: Candidate) -> FormatMatch | None:
    """A JSON object whose first value is a list of numbers, or pandas' object of them, with a loss among its names."""
    if not _FIRST.match(candidate.head) or json_lines(candidate):
        return None
    if not any(loss_name(key.decode(errors="replace")) for key in _KEY.findall(candidate.head)):
        return None
    return FormatMatch(Confidence.LIKELY, "it is a JSON object of lists, one of them a loss")


def read_table(path: Path, labels: frozenset[str]) -> Table:
    """One row for each position in the lists. Lists of another length than that of the loss are left out, and noted.

    Raises:
        UnreadableInput: not JSON, or no object with a list of numbers in it.
    """
    file = display_name(path)
    value = read_value(path)
    lists = _lists(cast(dict[str, object], value)) if isinstance(value, dict) else {}
    if not lists:
        raise UnreadableInput("has no rows: no object of lists with numbers.", file=file)
    rows = _rows(lists, file)
    columns: dict[str, Cells] = {}
    dropped: dict[str, int] = {}
    other = [name for name, values in lists.items() if not (1 - _MOST_BLANK) * rows <= len(values) <= rows]
    for name, values in lists.items():
        if name not in other:
            columns[name], bad = cells_of([*values, *[None] * (rows - len(values))], label=name in labels)
            dropped |= {name: bad} if bad else {}
    notes = dropped_notes(file, dropped)
    if other:
        notes.append(f"{file}: not read, because they have not {rows:,} values as the others: {name_list(other)}")
    return table_of([Chunk(rows, columns)], file, notes, labels)


def steps(table: Table) -> DerivedSteps | None:
    """The positions in the lists, unless one of the lists counts steps or epochs."""
    if counts_steps(table.names):
        return None
    return DerivedSteps(Numbers(np.arange(table.rows, dtype=np.float64), None), "the positions in its lists, from 0")


def _lists(value: Mapping[str, object]) -> dict[str, list[object]]:
    """The lists by their names, at most `MOST_COLUMNS`; pandas writes `{"0": …, "1": …}` for a list."""
    lists: dict[str, list[object]] = {}
    for name, inner in value.items():
        values: list[object] = []
        if isinstance(inner, list):
            values = cast(list[object], inner)
        elif isinstance(inner, dict) and "0" in inner:
            values = list(cast(dict[str, object], inner).values())
        if values and not isinstance(values[0], (list, dict)) and len(lists) < MOST_COLUMNS:
            lists[name] = values
    return lists


def _rows(lists: Mapping[str, list[object]], file: str) -> int:
    """The length of the list that is the loss, or else the most frequent one."""
    loss = assign_columns(tuple(lists), {}, {}, file).logged_as.get("loss")
    return len(lists[loss]) if loss else Counter(map(len, lists.values())).most_common(1)[0][0]


SOURCE = row_source(
    "Keras history",
    "a JSON object of lists, as of Keras' history",
    sniff,
    read_table,
    steps=steps,
    limits=("one value an epoch, which Keras averages over it: what happened within an epoch is not in it",),
)
