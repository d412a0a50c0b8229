"""A learning rate that jumps against its own trend. A kink (end of warmup, start of a decay) is no jump."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import LINGERING, RECOVERED, Detector, Finding, Telemetry, onset_interval
from postmortem.incident import Kind
from postmortem.series import Series

Values = NDArray[np.float64]

SHARE, SHARE_OF_TOP, TIMES = 0.1, 0.02, 8.0
"""A jump moves the rate by a tenth of its size or more, by 2 % of the highest rate (a log prints few digits of a small
one), and by 8 times what the slope on either side would."""

_SIDE_ROWS, _SCHEDULED_JUMPS, _NEXT_TO_NOTHING = 4, 3, 1e-12


def _find(t: Telemetry) -> Iterator[Finding]:
    series = t.series("lr")
    if series is None:
        return
    finite = np.isfinite(series.value)
    step, lr = series.step[finite], series.value[finite]
    rows = _jumps(step, lr)
    if _scheduled(step, lr, rows):
        return
    skip = -1
    for i, row in enumerate(rows):
        if row <= skip:
            continue
        back = next((r for r in rows[i + 1 :] if r - row <= 50 and _returns(lr, row, r)), None)
        skip = row if back is None else back
        yield _finding(series, step, lr, row, back)


def _jumps(step: NDArray[np.int64], lr: Values) -> list[int]:
    """Rows whose change per step is out of line with the changes before and after it."""
    if lr.size < 6 or lr.max() < np.finfo(float).tiny * 1e20:
        return []
    slope = np.abs(np.diff(lr) / np.diff(step))
    size = np.maximum(np.abs(lr[1:]), np.abs(lr[:-1]))
    large = np.flatnonzero(np.abs(np.diff(lr)) >= np.maximum(SHARE * size, SHARE_OF_TOP * lr.max()))
    found: list[int] = []
    for k in large.tolist():
        if k + 1 < 3 or lr[k] <= _NEXT_TO_NOTHING * lr.max():
            continue
        sides = (slope[max(k - _SIDE_ROWS, 0) : k], slope[k + 1 : k + 1 + _SIDE_ROWS])
        trend = max((float(np.median(side)) for side in sides if side.size), default=0.0)
        if slope[k] > TIMES * trend and not _staircase(lr, k):
            found.append(k + 1)
    return found


def _staircase(lr: Values, k: int) -> bool:
    """A drop that is constant on both sides: a step-decay schedule does just that."""
    if not 0 < lr[k + 1] < lr[k]:
        return False
    before, after = lr[max(k - _SIDE_ROWS, 0) : k + 1], lr[k + 1 : k + 2 + 12 * _SIDE_ROWS]
    return bool(np.ptp(before) == 0 and np.ptp(after) == 0 and after.size > _SIDE_ROWS)


def _scheduled(step: NDArray[np.int64], lr: Values, rows: list[int]) -> bool:
    """Jumps to one height at equal or steadily growing distances are warm restarts (SGDR), not accidents."""
    if len(rows) < _SCHEDULED_JUMPS:
        return False
    gaps = np.diff(step[np.asarray(rows)]).astype(float)
    ratios = gaps[1:] / gaps[:-1]
    heights = lr[np.asarray(rows)]
    return bool(np.ptp(ratios) <= 0.1 and ratios.min() >= 0.9 and heights.min() >= 0.5 * heights.max())


def _returns(lr: Values, row: int, back: int) -> bool:
    return bool(abs(lr[back] - lr[row - 1]) <= 0.5 * abs(lr[row] - lr[row - 1]))


def _finding(series: Series, step: NDArray[np.int64], lr: Values, row: int, back: int | None) -> Finding:
    base, value = float(lr[row - 1]), float(lr[row])
    change = value - base
    own = np.abs(np.diff(lr[max(row - 20, 0) : row]))
    scale = max(float(np.median(own)) if own.size else 0.0, 1e-3 * abs(base))
    return Finding(
        detector="lr_discontinuity",
        kind="lr_discontinuity",
        column=series.name,
        onset_step=int(step[row]),
        onset_interval=onset_interval(step, row),
        peak_step=int(step[row]),
        recovery_step=None if back is None else int(step[back]),
        peak=value,
        baseline=base,
        scale=scale,
        score=abs(change) / scale,
        settled=None if back is None else float(lr[back]),
        outcome=LINGERING if back is None else RECOVERED,
        figures={"ratio": value / base, "height": abs(float(np.log(max(value / base, _NEXT_TO_NOTHING))))},
    )


KIND = Kind("lr_discontinuity", "learning-rate discontinuity", "cause")

DETECTOR = Detector("lr_discontinuity", (KIND,), _find)
