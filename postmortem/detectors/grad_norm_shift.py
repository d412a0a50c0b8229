"""A gradient norm that steps to another level and stays: an accumulation factor or a batch size that changed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import (
    LINGERING,
    Alarm,
    Detector,
    Finding,
    Row,
    Stream,
    Telemetry,
    number,
    onset_interval,
)
from postmortem.detectors._screen import ScreenedColumn, signal
from postmortem.incident import Kind
from postmortem.stats import robust_sigma

NEAR_ROWS, FAR_ROWS, FIRST_ROW = 8, 40, 64
BLOCK_ROWS = 16
FACTOR_LOG = float(np.log(1.8))
SIGMAS = 5.0
"""The smallest factor a change of accumulation or world size makes is 2; 1.8 leaves room for noise. The step must show
between 8 rows before and 8 after, hold over 40 on either side, and exceed what the 40 rows before did among themselves
by 5 sigma. The first 64 rows, where every gradient norm falls steeply, are left out."""

_BLOCKS_AFTER, _BLOCKS = 5, 10
"""Blocks from the one before a step until the 40 rows after it are there; and how many a stream keeps."""

Values = NDArray[np.float64]


def _find(t: Telemetry) -> Iterator[Finding]:
    series = t.series("grad_norm")
    s = signal(series) if series is not None else None
    if s is None or not s.log or s.y.size < FIRST_ROW + FAR_ROWS:
        return
    n = s.y.size // BLOCK_ROWS * BLOCK_ROWS
    medians = np.median(s.y[:n].reshape(-1, BLOCK_ROWS), axis=1)
    last = -FAR_ROWS
    for k in np.flatnonzero(_moved(medians[:-2], medians[2:])).tolist():
        row = _refined(s, k, n, FIRST_ROW)
        if row is None or row - last < FAR_ROWS:
            continue
        f = _step(s, row)
        if f is not None:
            last = row
            yield f


def _moved(before: Values, after: Values) -> NDArray[np.bool_]:
    """Whether the medians of two blocks, one block apart, tell of a step between them."""
    return np.abs(after - before) > 0.8 * FACTOR_LOG


def _refined(s: ScreenedColumn, k: int, n: int, first: int) -> int | None:
    """The row of the largest change around the block after block `k`, from row `first` on; `n` rows are in blocks."""
    block = BLOCK_ROWS
    lo, hi = max((k + 1) * block - NEAR_ROWS, first), min((k + 2) * block + NEAR_ROWS, n - NEAR_ROWS)
    if hi <= lo:
        return None
    gain = [abs(_median(s, r, r + NEAR_ROWS) - _median(s, r - NEAR_ROWS, r)) for r in range(lo, hi)]
    best = max(gain)
    flat = [lo + i for i, g in enumerate(gain) if g >= 0.9 * best]
    return max(flat, key=lambda r: abs(float(s.y[r] - s.y[r - 1])))


def _median(s: ScreenedColumn, a: int, b: int) -> float:
    return float(np.median(s.y[max(a, 0) : b]))


def _step(s: ScreenedColumn, row: int) -> Finding | None:
    before, after = s.y[row - FAR_ROWS : row], s.y[row : row + FAR_ROWS]
    if before.size < FAR_ROWS or after.size < FAR_ROWS:
        return None
    level, base = float(np.median(after)), float(np.median(before))
    rise = level - base
    if abs(rise) < FACTOR_LOG:
        return None
    sign = 1.0 if rise > 0 else -1.0
    sigma = max(robust_sigma(before, base), 1e-3)
    near = sign * (_median(s, row, row + NEAR_ROWS) - _median(s, row - NEAR_ROWS, row))
    quarters = [sign * (float(np.median(q)) - base) for q in np.split(after, 4)]
    wander = max(abs(float(np.median(q)) - base) for q in np.split(before, 4))
    sharp = sign * float(s.y[row] - s.y[row - 1]) >= 0.5 * abs(rise)
    if not (sharp and near >= 0.8 * abs(rise) and min(quarters) >= 0.7 * abs(rise) and wander <= 0.3 * abs(rise)):
        return None
    if abs(rise) < SIGMAS * sigma:
        return None
    return Finding(
        detector="grad_norm_shift",
        kind="grad_norm_shift",
        column=s.name,
        onset_step=int(s.step[row]),
        onset_interval=onset_interval(s.step, row),
        peak_step=int(s.step[row]),
        recovery_step=None,
        peak=float(s.raw[row]),
        baseline=s.back(base),
        scale=sigma * s.back(base),
        score=abs(rise) / sigma,
        settled=s.back(level),
        outcome=LINGERING,
        figures={"height": rise, "ratio": float(np.exp(rise))},
    )


class _Stream(Stream):
    """The last blocks of the gradient norm. A step is told once the 40 rows after its block are there."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._values: list[float] = []
        self._dropped = 0  # rows, in whole blocks
        self._last = -FAR_ROWS
        self._log = True

    def take(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`."""
        value = number(row.get("grad_norm"))
        if value is None or value - value != 0.0 or not self._log or (self._steps and step <= self._steps[-1]):
            return ()
        self._log = value > 0
        self._steps.append(step)
        self._values.append(value)
        if len(self._values) % BLOCK_ROWS:
            return ()
        blocks = len(self._values) // BLOCK_ROWS
        found = self._look(step, range(blocks - _BLOCKS_AFTER, blocks - _BLOCKS_AFTER + 1))
        if blocks == _BLOCKS:
            del self._values[:BLOCK_ROWS], self._steps[:BLOCK_ROWS]
            self._dropped += BLOCK_ROWS
        return found

    def end(self, step: int) -> Sequence[Alarm]:
        """What changes because `step` was the last row."""
        blocks = len(self._values) // BLOCK_ROWS
        return self._look(step, range(blocks - _BLOCKS_AFTER + 1, blocks - 2))

    def rewound(self, step: int) -> None:
        """Forget the rows from `step` on."""
        kept = bisect_left(self._steps, step)
        del self._values[kept:], self._steps[kept:]
        if not kept:
            self.__init__()
        elif self._last >= self._dropped + kept:
            self._last = -FAR_ROWS

    @np.errstate(all="ignore")
    def _look(self, step: int, blocks: range) -> list[Alarm]:
        """Alarms of the steps beside `blocks`."""
        alarms: list[Alarm] = []
        if not self._log or blocks.stop <= 0:
            return alarms
        raw = np.array(self._values)
        n = raw.size // BLOCK_ROWS * BLOCK_ROWS
        y = np.log(raw)
        s = ScreenedColumn("grad_norm", np.array(self._steps), raw, y, True, 1.0, 1.0)
        for k in range(max(blocks.start, 0), blocks.stop):
            ends = np.median(y[k * BLOCK_ROWS : (k + 3) * BLOCK_ROWS].reshape(3, -1), axis=1)
            row = _refined(s, k, n, FIRST_ROW - self._dropped) if _moved(ends[0], ends[2]) else None
            if row is not None and row + self._dropped - self._last >= FAR_ROWS and (f := _step(s, row)) is not None:
                self._last = row + self._dropped
                alarms.append(Alarm(f.detector, f.kind, f.column, f.onset_step, step, state="settled"))
        return alarms


KIND = Kind("grad_norm_shift", "gradient-norm shift")

DETECTOR = Detector("grad_norm_shift", (KIND,), _find, _Stream)
