"""A replay held against what the run recorded, step by step, while it goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from postmortem.arithmetic import differences
from postmortem.errors import NotReproduced
from postmortem.program import Measured
from postmortem.record.provenance import environment
from postmortem.replay.result import Difference
from postmortem.run.recorded import IDENTITY, RecordedRun
from postmortem.text import plain


class DataChanged(NotReproduced):
    """A batch is not the one that the run consumed: what is replayed would be another training."""


@dataclass
class Tally:
    """What was found so far. `first` holds the first difference of each column, `departed` how many rows of it differ,
    `compared` counts the steps in which something could be compared."""

    first: dict[str, Difference] = field(default_factory=dict)
    departed: dict[str, int] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)
    compared: int = 0

    @staticmethod
    def of_ranks(found: Sequence[Tally]) -> Tally:
        """One tally of all ranks: a step differs where it does on any of them."""
        every = Tally(compared=max(one.compared for one in found))
        for one in found:
            every.columns |= one.columns
            for column, rows in one.departed.items():
                every.departed[column] = max(rows, every.departed.get(column, 0))
            for column, difference in one.first.items():
                if column not in every.first or difference.step < every.first[column].step:
                    every.first[column] = difference
        return every


class ReplayComparison:
    """What a replay of the steps [first, last) has in common with its run, on one rank. Where it has another number of
    ranks than the run had, hashes are of other parts of batches and parameters, and only figures are compared."""

    def __init__(self, recorded: RecordedRun, first: int, last: int, world_size: int) -> None:
        self._recorded = recorded
        self._resharded = recorded.run.manifest.world_size not in (None, world_size)
        names = [name for name in IDENTITY if not (self._resharded and name.endswith("_hash"))]
        self._rows = {name: recorded.rows(name, first, last) for name in names}
        self.tally = Tally()

    def loss_at(self, step: int) -> float | None:
        """The loss that the run recorded at `step`."""
        found = self._rows["loss"].get(step)
        return found if isinstance(found, float) else None

    def batch(self, step: int, index: int, facts: Mapping[str, Any]) -> None:
        """Hold an untouched batch against the one of its index.

        Raises:
            DataChanged: the run consumed another one.
        """
        found, known = facts.get("batch_hash"), self._recorded.hash_of(index)
        if not self._resharded and known is not None and found is not None and found != known:
            raise DataChanged(
                f"batch {index}, the first that is not what the run consumed: hash {plain(found, 40)} now, "
                f"{plain(known, 40)} in the run's rows (step {step}). The dataset, its order or the tokenizer has "
                "changed since; restore it, or replay with the program of then"
            )

    def row(self, step: int, measured: Measured) -> None:
        """Compare one step."""
        tally, any_here = self.tally, False
        for column, rows in self._rows.items():
            now = measured.batch.get(column)
            if now is None:
                now = measured.metrics.get(column)
            known = rows.get(step)
            if now is None or known is None:
                continue
            any_here = True
            tally.columns.add(column)
            if not same(known, now):
                tally.departed[column] = tally.departed.get(column, 0) + 1
                if column not in tally.first:
                    tally.first[column] = Difference(column, step, known, now)
        tally.compared += any_here


def same(a: float | str, b: float | str | None) -> bool:
    """Equality of bits; NaN equals NaN."""
    if isinstance(a, float) and isinstance(b, (int, float)):
        return a == b or (math.isnan(a) and math.isnan(b))
    return a == b


def other_arithmetic(recorded: RecordedRun, world_size: int) -> tuple[str, ...]:
    """What the bits depend on and is not as it was: "torch 2.8.0 then, 2.13.0 now". Call it once torch is imported."""
    found = differences(recorded.run.manifest.environment, environment())
    ranks = recorded.run.manifest.world_size
    return found if ranks in (None, world_size) else (*found, f"{ranks} ranks then, {world_size} now")
