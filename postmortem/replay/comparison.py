"""A replay held against what the run recorded, step by step, while it goes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from postmortem.errors import PostmortemError
from postmortem.program import Measured
from postmortem.record.provenance import environment
from postmortem.replay.recorded import IDENTITY, Recorded
from postmortem.text import plain

ARITHMETIC = ("torch", "cpu_capability", "threads", "cuda", "rocm", "cpu")


class DataChanged(PostmortemError):
    """A batch is not the one that the run consumed: what is replayed would be another training."""

    exit_code = 5


@dataclass(frozen=True)
class Difference:
    """The first step at which a column of the replay is another than the run recorded."""

    column: str
    step: int
    recorded: float | str
    replayed: float | str | None


class Comparison:
    """What a replay has in common with its run so far. `first` holds the first difference of each column, `compared`
    the rows in which something could be compared."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self.first: dict[str, Difference] = {}
        self.departed: dict[str, int] = {}
        self.compared = 0
        self.columns: set[str] = set()

    def batch(self, step: int, index: int, facts: Mapping[str, Any]) -> None:
        """Hold an untouched batch against the one of its index.

        Raises:
            DataChanged: the run consumed another one.
        """
        found, known = facts.get("batch_hash"), self._recorded.hash_of(index)
        if known is not None and found is not None and found != known:
            raise DataChanged(
                f"batch {index}, the first that is not what the run consumed: hash {plain(found, 40)} now, "
                f"{plain(known, 40)} in the run's rows (step {step}). The dataset, its order or the tokenizer has "
                "changed since; restore it, or replay with the program of then"
            )

    def row(self, step: int, measured: Measured) -> None:
        """Compare one step."""
        found = {**measured.batch, **measured.metrics}
        any_here = False
        for column in IDENTITY:
            known, now = self._recorded.at(column, step), found.get(column)
            if known is None or now is None:
                continue
            any_here = True
            self.columns.add(column)
            if not same(known, now):
                self.departed[column] = self.departed.get(column, 0) + 1
                if column not in self.first:
                    self.first[column] = Difference(column, step, known, now)
        self.compared += any_here

    @property
    def exact(self) -> bool:
        """Whether every bit that could be compared is equal, and some could."""
        return self.compared > 0 and not self.first


def same(a: float | str, b: float | str) -> bool:
    """Equality of bits; NaN equals NaN."""
    if isinstance(a, float) and isinstance(b, (int, float)):
        return a == b or (math.isnan(a) and math.isnan(b))
    return a == b


def other_arithmetic(recorded: Recorded, world_size: int) -> tuple[str, ...]:
    """What the bits depend on and is not as it was: "torch 2.8.0 then, 2.13.0 now". Call it once torch is imported."""
    then, now = recorded.run.manifest.environment, environment()
    found = [
        f"{key} {plain(then[key], 60)} then, {plain(now.get(key), 60)} now"
        for key in ARITHMETIC
        if key in then and then[key] != now.get(key)
    ]
    ranks = recorded.run.manifest.world_size
    if ranks is not None and ranks != world_size:
        found.append(f"{ranks} ranks then, {world_size} now")
    return tuple(found)
