"""The result of a replay, stored beside its rows, and the tally of how its rows differ from those of its run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from postmortem.jsonio import strict_json

SPEC_FILE = "replay.json"
RESULT_FILE = "replayed.json"


@dataclass(frozen=True)
class Difference:
    """The first step at which a column of the replay differs from what the run recorded."""

    column: str
    step: int
    recorded: float | str
    replayed: float | str | None


@dataclass(frozen=True)
class ReplayResult:
    """The result of a replay.

    `differences` are the first difference of each column, `departed` how many rows of each differ; `compared` counts
    the rows that could be compared; `arithmetic` says what bits depend on and what differs from the run,
    `computed_with` what this replay computed with; `state` is a hash of the final state, `nonfinite` the number of its
    NaN and infinite elements by tensor, None if a version replayed that did not look; `startup_s` are the seconds from
    the call to the first step. `idle` are those of `changes` that did nothing in the replayed steps.
    """

    out: str
    from_step: int
    until: int
    changes: tuple[str, ...]
    steps: int
    compared: int
    columns: tuple[str, ...]
    differences: tuple[Difference, ...]
    departed: Mapping[str, int]
    arithmetic: tuple[str, ...]
    state: str
    startup_s: float
    seconds: float
    computed_with: str = ""
    nonfinite: Mapping[str, int] | None = None
    idle: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether every compared row equals the run's, bit for bit."""
        return self.compared > 0 and not self.differences


def to_json(result: ReplayResult) -> str:
    """The result as strict JSON; numbers that are not finite are texts."""
    return strict_json(result)


@dataclass
class Tally:
    """The comparison so far. `first` contains the first difference of each column, `differing_rows` how many rows of
    it differ; `compared` counts the steps in which something could be compared."""

    first: dict[str, Difference] = field(default_factory=dict)
    differing_rows: dict[str, int] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)
    compared: int = 0

    def compare(self, step: int, recorded: Mapping[str, float | str | None], replayed: Mapping[str, Any]) -> None:
        """Compare one step, column by column; a value that one side lacks is left out."""
        compared = False
        for column, value in recorded.items():
            now = replayed.get(column)
            if value is None or now is None:
                continue
            compared = True
            self.columns.add(column)
            if not equal_bits(value, now):
                self.differing_rows[column] = self.differing_rows.get(column, 0) + 1
                if column not in self.first:
                    self.first[column] = Difference(column, step, value, now)
        self.compared += compared

    @staticmethod
    def of_ranks(tallies: Sequence[Tally]) -> Tally:
        """One tally of all ranks: a step differs if it differs on any of them."""
        total = Tally(compared=max(tally.compared for tally in tallies))
        for tally in tallies:
            total.columns |= tally.columns
            for column, rows in tally.differing_rows.items():
                total.differing_rows[column] = max(rows, total.differing_rows.get(column, 0))
            for column, difference in tally.first.items():
                if column not in total.first or difference.step < total.first[column].step:
                    total.first[column] = difference
        return total


def equal_bits(a: float | str, b: float | str | None) -> bool:
    """Whether two values have the same bits; NaN equals NaN."""
    if isinstance(a, float) and isinstance(b, (int, float)):
        return a == b or (math.isnan(a) and math.isnan(b))
    return a == b
