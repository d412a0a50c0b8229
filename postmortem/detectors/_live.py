"""All live detectors together, fed row by row while a run goes on, by its training loop or its recorder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from postmortem.detectors._model import Alarm, Detector, Row


class LiveDetectors:
    """The row-by-row versions of `detectors`: each gets every row and keeps a bounded number of them.

    Not thread-safe.
    """

    def __init__(self, detectors: Iterable[Detector]) -> None:
        self._streams = [d.stream() for d in detectors if d.stream is not None]
        self._add_row_methods = [stream.add_row for stream in self._streams]
        self._last = -1

    def add_row(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`. Steps ascend; several rows of one step count as one where their columns
        differ."""
        self._last = step
        alarms: Sequence[Alarm] = ()
        with np.errstate(all="ignore"):  # a log may contain any float
            for add_row in self._add_row_methods:
                if new := add_row(step, row):
                    alarms = [*alarms, *new]
        return alarms

    def end(self) -> Sequence[Alarm]:
        """The run is over: every open alarm is settled or withdrawn. No row may follow."""
        with np.errstate(all="ignore"):
            return [alarm for stream in self._streams for alarm in stream.end(self._last)]

    def levels(self) -> dict[str, float]:
        """Column → a value that its next row must exceed to raise an alarm at once, for callers that would rather pass
        rows in bulk. A lower row may raise one later, and other columns need several rows."""
        levels: dict[str, float] = {}
        for stream in self._streams:
            for column, level in stream.levels().items():
                levels[column] = min(level, levels.get(column, level))
        return levels

    def rewind_to(self, step: int) -> None:
        """The run went back and goes on with `step`: alarms of later onsets are void and are not reported any more."""
        for stream in self._streams:
            stream.rewind_to(step)
