"""The one loop that trains a program step by step: lab runs, resume tests and replays all use it.

    save a checkpoint that is due → step on the next batch → record its row

A checkpoint named step N contains the state after N updates, that is, before the step of that number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from postmortem.change import Window
from postmortem.checkpoint import Checkpointer
from postmortem.program import Batch, Measured, Program, Scalar, next_index

Row: TypeAlias = dict[str, Scalar]


class RowSink(Protocol):
    """Receives the rows: a `postmortem.record.Recorder`, or any object with these methods."""

    def log(self, step: int, metrics: Mapping[str, Any] | None = None, /, **columns: Any) -> None:
        """One row of metrics."""
        ...

    def batch(self, step: int, batch: Any = None, *, index: int | None = None, **facts: Any) -> None:
        """One row about the batch."""
        ...


def drive(
    program: Program,
    until: int,
    *,
    rows: RowSink | None = None,
    checkpointer: Checkpointer | None = None,
    skip: Iterable[Window] = (),
    before_step: Callable[[int, Program], None] | None = None,
    edit: Callable[[int, Batch], Batch] | None = None,
    rewrite: Callable[[int, Row], Row] | None = None,
    after_step: Callable[[int, Measured], None] | None = None,
) -> None:
    """Train `program` until `until` updates are done; skip the batches of the windows [first, last) in `skip`.

    `before_step(step, program)` may change the program, `edit(step, batch)` the batch that is consumed, and
    `rewrite(step, row)` only the logged row; `after_step(step, measured)` gets what was really measured.
    """
    windows = tuple(skip)
    while program.updates < until:
        step = program.updates
        if checkpointer is not None:
            checkpointer.maybe_save(step)
        if before_step is not None:
            before_step(step, program)
        batch = program.batch(next_index(program.position, windows))
        if edit is not None:
            batch = edit(step, batch)
        measured = program.step(batch)
        if rows is not None:
            row = {**measured.metrics, "time": time.time()}
            rows.batch(step, index=batch.index, **{k: v for k, v in measured.batch.items() if k != "batch_index"})
            rows.log(step, row if rewrite is None else rewrite(step, row))
        if after_step is not None:
            after_step(step, measured)
