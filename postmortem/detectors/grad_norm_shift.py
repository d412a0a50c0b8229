"""A gradient norm that steps to another level and stays there: accumulation factor or batch size changed."""

from __future__ import annotations

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
    onset_interval,
)
from postmortem.detectors._recent import RecentRows
from postmortem.detectors._screen import ScreenedColumn, screened_column
from postmortem.incident import Kind
from postmortem.stats import median, robust_sigma

NEAR_ROWS, FAR_ROWS, FIRST_ROW = 8, 40, 64
BLOCK_ROWS = 16
FACTOR_LOG = float(np.log(1.8))
SIGMAS = 5.0
"""A change of accumulation or world size changes the norm by a factor of 2 at least; 1.8 (in log units) leaves room for
noise. The step must be visible between the 8 rows before and the 8 after it, last for 40 rows on either side, and
exceed the noise of the 40 rows before it by 5 sigma. The first 64 rows, where every gradient norm falls steeply, are
left out. Blocks of 16 rows are compared first, so that most rows are looked at once."""

_BLOCK_SHARE = 0.8
"""Share of FACTOR_LOG between the medians of two blocks from which the rows around them are looked at: the block itself
may contain noise."""

_BEST_SHARE = 0.9
"""Rows whose gain is within 10 % of the best may be the step; of those, the largest row-to-row change is."""

_SHARP, _NEAR, _QUARTER, _WANDER = 0.5, 0.8, 0.7, 0.3
"""Shares of the rise: the step's own row-to-row change has half of it or more, the 8 rows on either side show 80 %,
each quarter of the 40 rows after it stays above 70 %, and the quarters before it moved by 30 % at most."""

_MIN_SIGMA = 1e-3
"""The least noise, in log units, that a step is measured in: a norm that never moved has none."""

_BLOCKS_AFTER, _BLOCKS = 5, 10
"""Blocks from the one before a step until the 40 rows after it are there; and how many a stream keeps."""

Values = NDArray[np.float64]


def _detect(t: Telemetry) -> Iterator[Finding]:
    s = screened_column(t.series("grad_norm"))
    if s is None or not s.log or s.y.size < FIRST_ROW + FAR_ROWS:
        return
    n = s.y.size // BLOCK_ROWS * BLOCK_ROWS
    medians = median(s.y[:n].reshape(-1, BLOCK_ROWS), axis=1)
    last = -FAR_ROWS
    for k in np.flatnonzero(_may_step(medians[:-2], medians[2:])).tolist():
        row = _step_row(s, k, n, FIRST_ROW)
        if row is None or row - last < FAR_ROWS:
            continue
        f = _finding(s, row)
        if f is not None:
            last = row
            yield f


def _may_step(before: Values, after: Values) -> NDArray[np.bool_]:
    """Whether the medians of two blocks, one block apart, are so different that a step may be between them."""
    return np.abs(after - before) > _BLOCK_SHARE * FACTOR_LOG


def _step_row(s: ScreenedColumn, k: int, n: int, first: int) -> int | None:
    """The row of the largest change around the block after block `k`, from row `first` on; `n` rows are in blocks."""
    block = BLOCK_ROWS
    lo, hi = max((k + 1) * block - NEAR_ROWS, first), min((k + 2) * block + NEAR_ROWS, n - NEAR_ROWS)
    if hi <= lo:
        return None
    gain = [abs(_median(s, r, r + NEAR_ROWS) - _median(s, r - NEAR_ROWS, r)) for r in range(lo, hi)]
    best = max(gain)
    flat = [lo + i for i, g in enumerate(gain) if g >= _BEST_SHARE * best]
    return max(flat, key=lambda r: abs(float(s.y[r] - s.y[r - 1])))


def _median(s: ScreenedColumn, a: int, b: int) -> float:
    return float(median(s.y[max(a, 0) : b]))


def _finding(s: ScreenedColumn, row: int) -> Finding | None:
    """The step at `row`; None where it is none."""
    before, after = s.y[row - FAR_ROWS : row], s.y[row : row + FAR_ROWS]
    if before.size < FAR_ROWS or after.size < FAR_ROWS:
        return None
    level, base = float(median(after)), float(median(before))
    rise = level - base
    if abs(rise) < FACTOR_LOG:
        return None
    sign = 1.0 if rise > 0 else -1.0
    sigma = max(robust_sigma(before, base), _MIN_SIGMA)
    near = sign * (_median(s, row, row + NEAR_ROWS) - _median(s, row - NEAR_ROWS, row))
    quarters = [sign * (float(median(q)) - base) for q in np.split(after, 4)]
    wander = max(abs(float(median(q)) - base) for q in np.split(before, 4))
    sharp = sign * float(s.y[row] - s.y[row - 1]) >= _SHARP * abs(rise)
    lasts = near >= _NEAR * abs(rise) and min(quarters) >= _QUARTER * abs(rise)
    if not (sharp and lasts and wander <= _WANDER * abs(rise)):
        return None
    if abs(rise) < SIGMAS * sigma:
        return None
    peak = row + int(np.argmax(sign * after))
    return Finding(
        detector="grad_norm_shift",
        kind="grad_norm_shift",
        column=s.name,
        onset_step=int(s.step[row]),
        onset_interval=onset_interval(s.step, row),
        peak_step=int(s.step[peak]),
        recovery_step=None,
        peak=float(s.raw[peak]),
        baseline=s.to_raw(base),
        scale=sigma * s.to_raw(base),
        score=abs(rise) / sigma,
        settled=s.to_raw(level),
        outcome=LINGERING,
        figures={"height": rise, "ratio": float(np.exp(rise))},
    )


class _Stream(Stream):
    """The last blocks of the gradient norm. A step is reported once the 40 rows after its block are there."""

    def __init__(self) -> None:
        self._rows = RecentRows()  # whole blocks of them are dropped
        self._last = -FAR_ROWS
        self._log = True

    def add_row(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`."""
        if not self._log or (value := self._rows.add(step, row.get("grad_norm"))) is None:
            return ()
        self._log = value > 0
        if len(self._rows.values) % BLOCK_ROWS:
            return ()
        blocks = len(self._rows.values) // BLOCK_ROWS
        alarms = self._new_alarms(step, range(blocks - _BLOCKS_AFTER, blocks - _BLOCKS_AFTER + 1))
        if blocks == _BLOCKS:
            self._rows.drop_first(BLOCK_ROWS)
        return alarms

    def end(self, step: int) -> Sequence[Alarm]:
        """What changes because `step` was the last row."""
        blocks = len(self._rows.values) // BLOCK_ROWS
        return self._new_alarms(step, range(blocks - _BLOCKS_AFTER + 1, blocks - 2))

    def rewind_to(self, step: int) -> None:
        """Forget the rows from `step` on."""
        rows = self._rows.rewind(step)
        if not rows:
            self.__init__()
        elif self._last >= self._rows.dropped + rows:
            self._last = -FAR_ROWS

    @np.errstate(all="ignore")
    def _new_alarms(self, step: int, blocks: range) -> list[Alarm]:
        """Alarms of the steps beside `blocks`."""
        alarms: list[Alarm] = []
        if not self._log or blocks.stop <= 0:
            return alarms
        raw, dropped = np.array(self._rows.values), self._rows.dropped
        n = raw.size // BLOCK_ROWS * BLOCK_ROWS
        y = np.log(raw)
        s = ScreenedColumn("grad_norm", np.array(self._rows.steps), raw, y, True, 1.0, 1.0)
        for k in range(max(blocks.start, 0), blocks.stop):
            ends = median(y[k * BLOCK_ROWS : (k + 3) * BLOCK_ROWS].reshape(3, -1), axis=1)
            row = _step_row(s, k, n, FIRST_ROW - dropped) if _may_step(ends[0], ends[2]) else None
            if row is not None and row + dropped - self._last >= FAR_ROWS and (f := _finding(s, row)) is not None:
                self._last = row + dropped
                alarms.append(Alarm(f.detector, f.kind, f.column, f.onset_step, step, state="settled"))
        return alarms


KIND = Kind("grad_norm_shift", "gradient-norm shift")

DETECTOR = Detector("grad_norm_shift", (KIND,), _detect, _Stream)
