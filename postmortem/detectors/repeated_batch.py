"""A batch that is repeated too early, by its hash.

Ordinary epochs repeat batches, too: in a fixed order with a constant period, or shuffled once all batches were used. So
only two things count: the same batch in consecutive rows, and a stretch of repeats that ends in fresh batches (a loader
that went back) or begins where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import RECOVERED, UNRESOLVED, Detector, Finding, LabelArrays, Telemetry, onset_interval
from postmortem.incident import Kind

FRESH_SHARE, MIN_STRETCH_ROWS, RESTART_ROWS = 0.5, 4, 2
"""The data is fresh where more than half of the 200 rows before have new batches; a stretch of repeats has four rows or
more; it belongs to a resume where it begins at most two rows after it."""

_WINDOW_ROWS, _JOIN_ROWS = 200, 2
"""Rows before a repeat that say whether the data is fresh; repeats this close together are one stretch."""


def _detect(t: Telemetry) -> Iterator[Finding]:
    labels = t.labels("batch_hash")
    if labels is None or labels[0].size < 3:
        return
    gap = _gaps(labels)
    if gap.max() <= 0 or (gap[1:] == 1).all():
        return
    for first, last in _stretches(t, labels, gap):
        yield _finding(labels, gap, first, last)


def _gaps(labels: LabelArrays) -> NDArray[np.int64]:
    """int64[n]: rows since the same hash was logged last, 0 where it is new (or not logged)."""
    codes = np.fromiter((hash(v if v is None else str(v)) for v in labels[1]), dtype=np.int64, count=labels[0].size)
    order = np.argsort(codes, kind="stable")
    same = codes[order][1:] == codes[order][:-1]
    gap = np.zeros(codes.size, dtype=np.int64)
    gap[order[1:][same]] = np.diff(order)[same]
    gap[codes == hash(None)] = 0
    return gap


def _stretches(t: Telemetry, labels: LabelArrays, gap: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """(first, last) row of each stretch of repeats that counts."""
    repeat = np.flatnonzero(gap > 0)
    fresh_before = np.concatenate(([0], np.cumsum(gap == 0)))
    restarts = np.searchsorted(labels[0], np.asarray(t.restarts, dtype=np.int64))
    for run in np.split(repeat, np.flatnonzero(np.diff(repeat) > _JOIN_ROWS) + 1):
        first, last = int(run[0]), int(run[-1])
        back = max(first - _WINDOW_ROWS, 0)
        fresh = (fresh_before[first] - fresh_before[back]) / max(first - back, 1) > FRESH_SHARE
        stuck = gap[run] == 1
        if stuck.any() and (fresh or _longest_run(run[stuck]) >= 2):
            rows = run[stuck]
            yield (first, last) if fresh and last + 1 < gap.size else (int(rows[0]), int(rows[-1]))
        elif fresh and run.size >= MIN_STRETCH_ROWS:
            resumed = bool(((first - restarts >= 0) & (first - restarts <= RESTART_ROWS)).any())
            if resumed or last + _JOIN_ROWS + 1 < gap.size:
                yield first, last


def _longest_run(rows: NDArray[np.intp]) -> int:
    """The size of the largest group of consecutive rows."""
    return max(part.size for part in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1))


def _finding(labels: LabelArrays, gap: NDArray[np.int64], first: int, last: int) -> Finding:
    step = labels[0]
    back = last + 1 < step.size
    rows = float(last - first + 1)
    return Finding(
        detector="repeated_batch",
        kind="repeated_batch",
        column="batch_hash",
        onset_step=int(step[first]),
        onset_interval=onset_interval(step, first),
        peak_step=int(step[first]),
        recovery_step=int(step[last + 1]) if back else None,
        peak=float(gap[first]),
        baseline=0.0,
        scale=0.0,
        score=rows,
        settled=None,
        outcome=RECOVERED if back else UNRESOLVED,
        figures={"rows": rows, "rows_since_first_seen": float(gap[first]), "height": rows / 10},
    )


KIND = Kind("repeated_batch", "repeated batch", "cause", "nothing")

DETECTOR = Detector(
    "repeated_batch",
    (KIND,),
    _detect,
    no_stream="It compares a batch's hash with every earlier hash, which no bounded memory can keep.",
)
