"""A learning rate that jumps against its own trend. A kink (end of warmup, start of a decay) is no jump."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import (
    LINGERING,
    RECOVERED,
    Alarm,
    Detector,
    Finding,
    Row,
    State,
    Telemetry,
    number,
    onset_interval,
)
from postmortem.series import Series

Values = NDArray[np.float64]

SHARE, SHARE_OF_TOP, TIMES = 0.1, 0.02, 8.0
"""A jump moves the rate by a tenth of its size or more, by 2 % of the highest rate (a log prints few digits of a small
one), and by 8 times what the slope on either side would."""

RETURN_ROWS = 50
"""A jump back within so many rows ends the one that it takes back."""

_STAIR_ROWS = 48
_SIDE_ROWS, _SCHEDULED_JUMPS, _NEXT_TO_NOTHING = 4, 3, 1e-12

_LEAST_ROWS, _MEASURABLE = 6, float(np.finfo(float).tiny) * 1e20
_KEPT, _JUMPS_KEPT = 128, 16
"""Rows, and jumps, that a stream keeps at least."""


def _find(t: Telemetry) -> Iterator[Finding]:
    series = t.series("lr")
    if series is None:
        return
    finite = np.isfinite(series.value)
    step, lr = series.step[finite], series.value[finite]
    rows = _jumps(step, lr)
    if _scheduled(step[rows], lr[rows]):
        return
    skip = -1
    for i, row in enumerate(rows):
        if row <= skip:
            continue
        back = next((r for r in rows[i + 1 :] if r - row <= RETURN_ROWS and _returns(lr, row, r)), None)
        skip = row if back is None else back
        yield _finding(series, step, lr, row, back)


def _jumps(step: NDArray[np.int64], lr: Values) -> list[int]:
    """Rows whose change per step is out of line with the changes before and after it."""
    if lr.size < _LEAST_ROWS or lr.max() < _MEASURABLE:
        return []
    size = np.maximum(np.abs(lr[1:]), np.abs(lr[:-1]))
    large = np.flatnonzero(np.abs(np.diff(lr)) >= np.maximum(SHARE * size, SHARE_OF_TOP * lr.max()))
    return [k + 1 for k in large.tolist() if k >= 2 and _is_jump(step, lr, k, float(lr.max()))]


def _is_jump(step: NDArray[np.int64], lr: Values, k: int, top: float) -> bool:
    """Whether the large change after row k is out of line with both sides."""
    if lr[k] <= _NEXT_TO_NOTHING * top:
        return False
    lo = max(k - _SIDE_ROWS, 0)
    near = slice(lo, k + 2 + _SIDE_ROWS)
    slope = np.abs(np.diff(lr[near]) / np.diff(step[near]))
    sides = (slope[: k - lo], slope[k - lo + 1 :])
    trend = max((float(np.median(side)) for side in sides if side.size), default=0.0)
    return bool(slope[k - lo] > TIMES * trend) and not _staircase(lr, k)


def _staircase(lr: Values, k: int) -> bool:
    """A drop that is constant on both sides: a step-decay schedule does just that."""
    if not 0 < lr[k + 1] < lr[k]:
        return False
    before, after = lr[max(k - _SIDE_ROWS, 0) : k + 1], lr[k + 1 : k + 2 + _STAIR_ROWS]
    return bool(np.ptp(before) == 0 and np.ptp(after) == 0 and after.size > _SIDE_ROWS)


def _scheduled(step: NDArray[np.int64], heights: Values) -> bool:
    """Jumps to one height at equal or steadily growing distances are warm restarts (SGDR), not accidents."""
    if step.size < _SCHEDULED_JUMPS:
        return False
    gaps = np.diff(step).astype(float)
    ratios = gaps[1:] / gaps[:-1]
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


@dataclass(eq=False)
class _Told:
    """A jump that was told; `row` counts all rows of the rate."""

    row: int
    alarm: Alarm
    returned: bool = False


class _Stream:
    """The last rows of the rate. A jump is told four rows after it, when the slope on its other side is known; one that
    may be a stair, when the rate moves again. Of the highest rate and of restarts it knows what has been."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._lr: list[float] = []
        self._dropped = 0
        self._top = -np.inf
        self._large: list[int] = []  # rows of large changes that are not judged
        self._jumps: list[tuple[int, float]] = []  # step and rate of the last jumps
        self._told: list[_Told] = []  # jumps that another may still take back

    def take(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`."""
        value = number(row.get("lr"))
        if value is None or value - value != 0.0 or (self._steps and step <= self._steps[-1]):
            return ()
        last = self._lr[-1] if self._lr else value
        self._steps.append(step)
        self._lr.append(value)
        if value > self._top:
            self._top = value
        size = SHARE * max(abs(value), abs(last))
        if abs(value - last) >= max(size, SHARE_OF_TOP * self._top) and value != last:
            self._large.append(self._dropped + len(self._lr) - 1)
        if len(self._lr) >= 2 * _KEPT:
            self._drop()
        return self._judge(step, end=False) if self._large or self._told else ()

    def end(self, step: int) -> Sequence[Alarm]:
        """What changes because `step` was the last row."""
        return self._judge(step, end=True) if self._dropped + len(self._lr) >= _LEAST_ROWS else ()

    def rewound(self, step: int) -> None:
        """Forget the rows from `step` on."""
        kept = bisect_left(self._steps, step)
        del self._lr[kept:], self._steps[kept:]
        self._large = [row for row in self._large if row < self._dropped + kept]
        self._jumps = [jump for jump in self._jumps if jump[0] < step]
        self._told = [told for told in self._told if told.alarm.onset_step < step]
        if not kept:
            self.__init__()

    def _drop(self) -> None:
        del self._lr[:_KEPT], self._steps[:_KEPT]
        self._dropped += _KEPT

    def _judge(self, step: int, end: bool) -> list[Alarm]:
        """Judge large changes in order, as far as the rows after them go."""
        steps, lr = np.array(self._steps), np.array(self._lr)
        alarms: list[Alarm] = []
        while self._large:
            row = self._large[0] - self._dropped
            after = lr.size - row - 1
            if not end and after < _SIDE_ROWS:
                break
            if self._large[0] >= 3 and self._top >= _MEASURABLE and _is_jump(steps, lr, row - 1, self._top):
                alarms += self._jumped(steps, lr, row, step)
            elif not end and after < _STAIR_ROWS and _staircase(lr, row - 1):
                break
            self._large.pop(0)
        newest = self._dropped + lr.size - 1
        for told in self._told:
            if told.alarm.state == "open" and (end or newest - told.row > RETURN_ROWS + _STAIR_ROWS):
                told.alarm = replace(told.alarm, step=step, state="settled")
                alarms.append(told.alarm)
        self._told = [told for told in self._told if newest - told.row <= _KEPT]
        return alarms

    def _jumped(self, steps: NDArray[np.int64], lr: Values, row: int, step: int) -> list[Alarm]:
        onset = int(steps[row])
        self._jumps = [*self._jumps, (onset, float(lr[row]))][-_JUMPS_KEPT:]
        at, heights = zip(*self._jumps, strict=True)
        if _scheduled(np.array(at), np.array(heights)):
            return self._withdraw(0, step)
        near = [t for t in self._told if not t.returned and self._dropped + row - t.row <= RETURN_ROWS]
        for told in near:
            first = told.row - self._dropped
            if first > 0 and _returns(lr, first, row):
                told.returned = True
                return self._withdraw(self._told.index(told) + 1, step)
        state: State = "open" if near else "settled"
        alarm = Alarm("lr_discontinuity", "lr_discontinuity", "lr", onset, step, state=state)
        self._told.append(_Told(self._dropped + row, alarm))
        return [alarm]

    def _withdraw(self, first: int, step: int) -> list[Alarm]:
        """Take back what is open from the alarm of this number on."""
        gone, self._told = self._told[first:], self._told[:first]
        return [replace(told.alarm, step=step, state="withdrawn") for told in gone if told.alarm.state == "open"]


DETECTOR = Detector("lr_discontinuity", ("lr_discontinuity",), _find, _Stream)
