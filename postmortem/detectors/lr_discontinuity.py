"""A learning rate that jumps against its own trend. A kink (end of warm-up, start of a decay) is no jump."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._course import SOON_ROWS
from postmortem.detectors._model import (
    LINGERING,
    RECOVERED,
    Alarm,
    Detector,
    Finding,
    Row,
    State,
    Stream,
    Telemetry,
    onset_interval,
)
from postmortem.detectors._recent import RecentRows
from postmortem.detectors._rolling import forward_median
from postmortem.incident import Kind
from postmortem.series import Series
from postmortem.stats import median

Values = NDArray[np.float64]

SHARE, SHARE_OF_TOP, TIMES = 0.1, 0.02, 8.0
"""A jump moves the rate by a tenth of its size or more, by 2 % of the highest rate (a log prints few digits of a small
one), and by 8 times what the slope on either side would."""

RETURN_ROWS = 50
"""A jump back within this many rows ends the jump that it undoes."""

_SIDE_ROWS = 4
"""Rows on either side whose slope is the trend: a schedule is smooth over so few."""

_STAIR_ROWS = 48
"""Rows after a drop that must all be the same in a step-decay schedule: its stairs are longer than a mishap lasts."""

_SCHEDULED_JUMPS = 3
"""Jumps that can show a rhythm: two distances to compare."""

_ZERO_SHARE = 1e-12
"""Share of the highest rate that counts as zero: a rise from there is the start of a schedule."""

_MIN_ROWS, _MEASURABLE = 6, float(np.finfo(float).tiny) * 1e20
"""The fewest rows with a trend on both sides; and the lowest top rate whose slopes do not underflow."""

_KEPT_ROWS, _KEPT_JUMPS = 128, 64
"""Rows, and jumps, that a stream keeps at least."""


def _detect(t: Telemetry) -> Iterator[Finding]:
    series = t.series("lr")
    if series is None:
        return
    finite = np.isfinite(series.value)
    step, lr = series.step[finite], series.value[finite]
    jumps = [_Jump(row, int(step[row]), float(lr[row - 1]), float(lr[row])) for row in _jumps(step, lr)]
    for jump, back in _unscheduled(jumps):
        undone = None if back is None else back.row
        finding = _finding(series, step, lr, jump.row, undone)
        raised = undone is None and jump.rate > jump.before  # a rate that fell does no harm that a calm loss could end
        calm = _calm_step(t.series("loss"), jump.step) if raised else None
        yield finding if calm is None else replace(finding, recovery_step=calm, outcome=RECOVERED)


def _calm_step(loss: Series | None, jump: int) -> int | None:
    """The first step after a jump at which the loss is where it was before: what a rate that stays elsewhere did is
    over then. None where no loss says so."""
    if loss is None:
        return None
    before = loss.window(0, jump).value[-SOON_ROWS:]
    after = loss.window(jump + 1, int(loss.step[-1]) + 1)
    if before.size < SOON_ROWS or len(after) < SOON_ROWS:
        return None
    level = forward_median(after.value, SOON_ROWS)[: 1 - SOON_ROWS]
    calm = np.flatnonzero((level <= median(before)) & (after.value[: level.size] <= median(before)))
    return int(after.step[calm[0]]) if calm.size else None


@dataclass(frozen=True)
class _Jump:
    row: int
    step: int
    before: float
    rate: float

    def is_undone_by(self, later: _Jump) -> bool:
        """Whether a later jump goes back more than half of the way."""
        return abs(later.rate - self.before) <= 0.5 * abs(self.rate - self.before)


def _unscheduled(jumps: Sequence[_Jump]) -> Iterator[tuple[_Jump, _Jump | None]]:
    """The jumps that are no schedule, each with the one that undoes it; jumps between these two do not count."""
    if _scheduled(jumps):
        return
    skip = -1
    for i, jump in enumerate(jumps):
        if jump.row <= skip:
            continue
        near = (later for later in jumps[i + 1 :] if later.row - jump.row <= RETURN_ROWS)
        back = next((later for later in near if jump.is_undone_by(later)), None)
        skip = jump.row if back is None else back.row
        yield jump, back


def _jumps(step: NDArray[np.int64], lr: Values) -> list[int]:
    """Rows whose change per step is out of line with the changes before and after it."""
    if lr.size < _MIN_ROWS or lr.max() < _MEASURABLE:
        return []
    size = np.maximum(np.abs(lr[1:]), np.abs(lr[:-1]))
    large = np.flatnonzero(np.abs(np.diff(lr)) >= np.maximum(SHARE * size, SHARE_OF_TOP * lr.max()))
    return [k + 1 for k in large.tolist() if k >= 2 and _is_jump(step, lr, k, float(lr.max()))]


def _is_jump(step: NDArray[np.int64], lr: Values, k: int, top: float) -> bool:
    """Whether the large change after row k is out of line with both sides."""
    if lr[k] <= _ZERO_SHARE * top:
        return False
    lo = max(k - _SIDE_ROWS, 0)
    near = slice(lo, k + 2 + _SIDE_ROWS)
    slope = np.abs(np.diff(lr[near]) / np.diff(step[near]))
    sides = (slope[: k - lo], slope[k - lo + 1 :])
    trend = max((float(median(side)) for side in sides if side.size), default=0.0)
    return bool(slope[k - lo] > TIMES * trend) and not _staircase(lr, k)


def _staircase(lr: Values, k: int) -> bool:
    """Whether it is a drop between two constant rates, as in a step-decay schedule."""
    if not 0 < lr[k + 1] < lr[k]:
        return False
    before, after = lr[max(k - _SIDE_ROWS, 0) : k + 1], lr[k + 1 : k + 2 + _STAIR_ROWS]
    return bool(np.ptp(before) == 0 and np.ptp(after) == 0 and after.size > _SIDE_ROWS)


def _scheduled(jumps: Sequence[_Jump]) -> bool:
    """Whether the jumps are warm restarts (SGDR), not accidents: one height, at equal or steadily growing distances."""
    if len(jumps) < _SCHEDULED_JUMPS:
        return False
    gaps = np.diff([jump.step for jump in jumps]).astype(float)
    ratios = gaps[1:] / gaps[:-1]
    heights = [jump.rate for jump in jumps]
    return bool(np.ptp(ratios) <= 0.1 and ratios.min() >= 0.9 and min(heights) >= 0.5 * max(heights))


def _finding(series: Series, step: NDArray[np.int64], lr: Values, row: int, back: int | None) -> Finding:
    base, value = float(lr[row - 1]), float(lr[row])
    change = value - base
    usual = np.abs(np.diff(lr[max(row - 20, 0) : row]))
    scale = max(float(median(usual)) if usual.size else 0.0, 1e-3 * abs(base))
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
        figures={"ratio": value / base, "height": abs(float(np.log(max(value / base, _ZERO_SHARE))))},
    )


class _Stream(Stream):
    """The last rows of the rate. A jump is reported four rows after it, when the slope on its other side is known; one
    that may be a stair, when the rate moves again. The highest rate and the restarts are those so far."""

    def __init__(self) -> None:
        self._rows = RecentRows()
        self._top = -np.inf
        self._large: list[int] = []  # rows of large changes that are not judged yet
        self._jumps: list[_Jump] = []  # the last ones
        self._alarms: dict[int, Alarm] = {}  # by row, as they were reported last

    def add_row(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`."""
        rows = self._rows
        last = rows.values[-1] if rows.values else None
        value = rows.add(step, row.get("lr"))
        if value is None:
            return ()
        last = value if last is None else last
        self._top = max(self._top, value)
        size = SHARE * max(abs(value), abs(last))
        if abs(value - last) >= max(size, SHARE_OF_TOP * self._top) and value != last:
            self._large.append(rows.dropped + len(rows.values) - 1)
        if len(rows.values) >= 2 * _KEPT_ROWS:
            rows.drop_first(_KEPT_ROWS)
        if self._large or any(alarm.state == "open" for alarm in self._alarms.values()):
            return self._judge(step, end=False)
        return ()

    def end(self, step: int) -> Sequence[Alarm]:
        """What changes because `step` was the last row."""
        return self._judge(step, end=True) if self._rows.dropped + len(self._rows.values) >= _MIN_ROWS else ()

    def rewind_to(self, step: int) -> None:
        """Forget the rows from `step` on."""
        rows = self._rows.rewind(step)
        self._large = [row for row in self._large if row < self._rows.dropped + rows]
        self._jumps = [jump for jump in self._jumps if jump.step < step]
        self._alarms = {row: alarm for row, alarm in self._alarms.items() if alarm.onset_step < step}
        if not rows:
            self.__init__()

    @np.errstate(all="ignore")
    def _judge(self, step: int, end: bool) -> list[Alarm]:
        """Judge large changes in order, as far as the rows after them go."""
        steps, lr, dropped = np.array(self._rows.steps), np.array(self._rows.values), self._rows.dropped
        while self._large:
            row = self._large[0] - dropped
            after = lr.size - row - 1
            if not end and after < _SIDE_ROWS:
                break
            if self._large[0] >= 3 and self._top >= _MEASURABLE and _is_jump(steps, lr, row - 1, self._top):
                jump = _Jump(self._large[0], int(steps[row]), float(lr[row - 1]), float(lr[row]))
                self._jumps = [*self._jumps, jump][-_KEPT_JUMPS:]
            elif not end and after < _STAIR_ROWS and _staircase(lr, row - 1):
                break
            self._large.pop(0)
        return self._changed_alarms(step, dropped + lr.size - 1, end)

    def _changed_alarms(self, step: int, newest: int, end: bool) -> list[Alarm]:
        """The alarms on the kept jumps that are new, settled or withdrawn; `newest` is the last row."""
        alarms: list[Alarm] = []
        onsets = {jump.row: jump.step for jump, _ in _unscheduled(self._jumps)}
        for row, alarm in list(self._alarms.items()):
            if row not in onsets and alarm.state == "open":
                alarms.append(replace(alarm, step=step, state="withdrawn"))
                del self._alarms[row]
        for row, onset in onsets.items():
            sure = end or newest - row > RETURN_ROWS + _STAIR_ROWS
            state: State = "settled" if sure else "open"
            reported = self._alarms.get(row)
            if reported is None or reported.state != state:
                self._alarms[row] = Alarm("lr_discontinuity", "lr_discontinuity", "lr", onset, step, state=state)
                alarms.append(self._alarms[row])
        self._alarms = {jump.row: self._alarms[jump.row] for jump in self._jumps if jump.row in self._alarms}
        return alarms


KIND = Kind("lr_discontinuity", "learning-rate discontinuity", "cause")

DETECTOR = Detector("lr_discontinuity", (KIND,), _detect, _Stream)
