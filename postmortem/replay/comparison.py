"""Compares a replay, step by step while it is driven, with what the run recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postmortem.arithmetic import describe_differences
from postmortem.errors import NotReproduced
from postmortem.program import Measured
from postmortem.record.provenance import environment
from postmortem.run.recorded import IDENTITY_COLUMNS, RecordedRun
from postmortem.run.replayed import Tally
from postmortem.text import plain


class DataChanged(NotReproduced):
    """A batch is not the one that the run consumed: what is replayed would be another training."""


class ReplayComparison:
    """Compares a replay of the steps [first, last) with its run, on one rank. If the run had another number of ranks,
    its hashes belong to other parts of batches and parameters, so that only figures are compared."""

    def __init__(self, recorded: RecordedRun, first: int, last: int, world_size: int) -> None:
        self._recorded = recorded
        self._resharded = recorded.run.manifest.world_size not in (None, world_size)
        names = [name for name in IDENTITY_COLUMNS if not (self._resharded and name.endswith("_hash"))]
        self._rows = {name: recorded.rows(name, first, last) for name in names}
        self.tally = Tally()

    def loss_at(self, step: int) -> float | None:
        """The loss that the run recorded at `step`."""
        loss = self._rows["loss"].get(step)
        return loss if isinstance(loss, float) else None

    def batch(self, step: int, index: int, facts: Mapping[str, Any]) -> None:
        """Compare an unchanged batch with the batch that the run consumed at its index.

        Raises:
            DataChanged: they differ.
        """
        replayed, recorded = facts.get("batch_hash"), self._recorded.batch_hash_at(index)
        if not self._resharded and recorded is not None and replayed is not None and replayed != recorded:
            raise DataChanged(
                f"batch {index} is the first that differs from what the run consumed: hash {plain(replayed, 40)} now, "
                f"{plain(recorded, 40)} in the run's rows (step {step}). The dataset, its order or the tokenizer has "
                "changed since; restore it, or replay with the program of that time"
            )

    def row(self, step: int, measured: Measured) -> None:
        """Compare one step."""
        replayed: dict[str, Any] = {}
        for column in self._rows:
            value = measured.batch.get(column)
            replayed[column] = measured.metrics.get(column) if value is None else value
        self.tally.compare(step, {column: rows.get(step) for column, rows in self._rows.items()}, replayed)


def describe_other_arithmetic(recorded: RecordedRun, world_size: int) -> tuple[str, ...]:
    """What bits depend on and what differs from the run: "torch 2.8.0 then, 2.13.0 now". Needs torch to be imported."""
    differences = describe_differences(recorded.run.manifest.environment, environment())
    ranks = recorded.run.manifest.world_size
    return differences if ranks in (None, world_size) else (*differences, f"{ranks} ranks then, {world_size} now")
