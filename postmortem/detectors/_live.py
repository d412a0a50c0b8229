"""All live detectors behind one row: what a training loop, a recorder or a guard asks while the run goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from postmortem.detectors._model import Alarm, Detector, Row


class LiveDetectors:
    """The live faces of `detectors`: each is told of every row and keeps a bounded number of them.

    Not safe to call from two threads at a time.
    """

    def __init__(self, detectors: Iterable[Detector]) -> None:
        self._streams = [d.stream() for d in detectors if d.stream is not None]
        self._takes = [stream.take for stream in self._streams]
        self._last = -1

    def take(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`; steps ascend, and rows of one step count as one where each brings other
        columns."""
        self._last = step
        alarms: Sequence[Alarm] = ()
        for take in self._takes:
            if found := take(step, row):
                alarms = [*alarms, *found]
        return alarms

    def end(self) -> Sequence[Alarm]:
        """The run is over: what is open is settled or withdrawn. No row may follow."""
        return [alarm for stream in self._streams for alarm in stream.end(self._last)]

    def levels(self) -> dict[str, float]:
        """Column → a value that its next row must exceed to be told at once; it may be told later without, and others
        need several rows. For who would rather hand over rows in bulk."""
        levels: dict[str, float] = {}
        for stream in self._streams:
            for column, level in stream.levels().items():
                levels[column] = min(level, levels.get(column, level))
        return levels

    def rewound(self, step: int) -> None:
        """The run went back and goes on with `step`: alarms of later onsets are void, and no more is told of them."""
        for stream in self._streams:
            stream.rewound(step)
