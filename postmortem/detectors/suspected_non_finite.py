"""A loss that goes blank, or exactly zero, while the run goes on: several loggers write NaN that way.

A loss of exactly zero counts where it stood clearly above the log's rounding before, or beside a gradient norm that is
not finite or stands still (a filter of the trainer writes zero for NaN). Where the gradient norm is alive all the time,
the logger may be the reason: such a stretch is unresolved, or lingers where it is long.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from postmortem import stats
from postmortem.detectors._model import (
    DIVERGED,
    LINGERING,
    RECOVERED,
    SETTLE_ROWS,
    UNRESOLVED,
    Alarm,
    Detector,
    Finding,
    Row,
    Stream,
    Telemetry,
    as_float,
)
from postmortem.incident import Kind, Outcome
from postmortem.series import Series
from postmortem.stats import rounding

MIN_ROWS, TIMES, MIN_RATE = 10, 5.0, 0.5
"""Blank rows that make a gap: at least 10, five times the widest usual gap (99 % quantile), and logged at half the rate
(rows per step) of the losses before or more, so that evaluation rows after the last training row do not count."""

_USUAL_QUANTILE = 0.99
"""The widest gap but for one in a hundred counts as usual."""


ZERO_ROWS, PAST_ROWS = 3, 12
"""A positive loss that is exactly zero in its last 3 rows or more, after 12 rows or more that were not. After fewer, it
must have stood at half of its median: no training solves its task so soon and so suddenly."""

_ZERO_SHARE = 0.01
"""A loss that fell below 1 % of its median before it was zero got there by itself."""

_SOON_SHARE = 0.5
_ROUNDING_TIMES = 10.0
"""And so may one that was below ten units of the log's last digit: a loss of 0.0003 is soon 0.0000."""

_STILL_ROWS = 10
"""Rows in which a gradient norm is the same to the bit where it stands still."""

_MEDIAN_ROWS, _RATE_ROWS, _AFTER_ROWS = 50, 100, 20
"""Rows before a gap for the baseline and for the rate of losses, and rows after it for the level where it settled."""

_WIDEST_GAP = 1_000
"""Rows; a stream counts all wider gaps as this wide."""

Values = NDArray[np.float64]


def _detect(t: Telemetry) -> Iterator[Finding]:
    loss = t.series("loss")
    if loss is None or len(loss) < 2:
        return
    yield from _zero_stretch(t, loss)
    if t.row_steps.size - len(loss) >= MIN_ROWS:
        yield from _blank_stretches(t, loss)


def _zero_stretch(t: Telemetry, loss: Series) -> Iterator[Finding]:
    (nonzero,) = np.nonzero(loss.value)
    first = int(nonzero[-1]) + 1 if nonzero.size else 0
    zeros, past = len(loss) - first, loss.value[max(first - _MEDIAN_ROWS, 0) : first]
    if zeros < ZERO_ROWS:
        return
    onset, norms = int(loss.step[first]), _Norms()
    for value in _gradient_norms(t, onset, int(t.row_steps[-1])).tolist():
        norms.add(value)
    if not (_went_to_zero(past, first) or norms.dead or (first == 0 and norms.zero)):
        return
    level = past[np.isfinite(past)]
    baseline = float(stats.median(level)) if first >= PAST_ROWS and level.size else float("nan")
    outcome = DIVERGED if not norms.alive else UNRESOLVED if zeros < SETTLE_ROWS else LINGERING
    last = int(loss.step[first - 1]) if first else onset
    yield _finding((last, onset), None, baseline, None, outcome, {"zeros": float(zeros)})


def _gradient_norms(t: Telemetry, first: int, last: int) -> Values:
    """The gradient norms of steps `first` to `last`."""
    norm = t.series("grad_norm")
    return np.zeros(0) if norm is None else norm.window(first, last + 1).value


@dataclass
class _Norms:
    """The gradient norms of a stretch: how many, how many of them finite, and how many as the first one is."""

    rows: int = 0
    finite: int = 0
    same: int = 0
    first: float = 0.0

    def add(self, value: float) -> None:
        """The norm of one more row."""
        self.first = value if not self.rows else self.first
        self.rows += 1
        self.finite += value - value == 0.0
        self.same += value == self.first

    @property
    def dead(self) -> bool:
        """Whether none is finite, or all are the same. Zero is no sign: the loss of a solved task has no gradient."""
        still = self.same == self.rows >= _STILL_ROWS and self.first != 0.0
        return self.rows >= ZERO_ROWS and (self.finite == 0 or still)

    @property
    def zero(self) -> bool:
        """Whether all are 0. Beside a loss that is 0 from the first row on, nothing was computed."""
        return self.same == self.rows >= _STILL_ROWS and self.first == 0.0

    @property
    def alive(self) -> bool:
        """Whether all are finite, and they move."""
        return self.rows >= ZERO_ROWS and self.finite == self.rows > self.same


def _finding(
    between: tuple[int, int],
    back: int | None,
    baseline: float,
    settled: float | None,
    outcome: Outcome,
    figures: dict[str, float],
) -> Finding:
    """`between`: the last step with a loss, and the first without; `back`: the first step with a loss again."""
    last, onset = between
    return Finding(
        detector="suspected_non_finite",
        kind="suspected_non_finite",
        column="loss",
        onset_step=onset,
        onset_interval=None if onset - last <= 1 else between,
        peak_step=onset,
        recovery_step=back,
        peak=float("nan"),
        baseline=baseline,
        scale=float("nan"),
        score=float("inf"),
        settled=settled,
        outcome=outcome,
        suspected=True,
        figures=figures,
    )


def _blank_stretches(t: Telemetry, loss: Series) -> Iterator[Finding]:
    rows = np.searchsorted(t.row_steps, loss.step)
    blank = np.diff(np.append(rows, t.row_steps.size)) - 1
    usual = float(np.quantile(blank[:-1], _USUAL_QUANTILE)) if blank.size > 1 else 0.0
    for i in np.flatnonzero(blank >= max(MIN_ROWS, TIMES * (usual + 1))).tolist():
        first = int(rows[i]) + 1
        end = int(rows[i]) + 1 + int(blank[i])
        if not _goes_on(loss.step[max(i + 1 - _RATE_ROWS, 0) : i + 1].tolist(), end - first, int(t.row_steps[end - 1])):
            continue
        back = i + 1 < len(loss)
        past = loss.value[max(i + 1 - _MEDIAN_ROWS, 0) : i + 1]
        finite = past[np.isfinite(past)]
        if not finite.size or not np.isfinite(loss.value[i]):
            continue
        onset, last = int(t.row_steps[first]), int(loss.step[i])
        norms = _gradient_norms(t, onset, int(t.row_steps[-1]))
        calm = not back and norms.size >= ZERO_ROWS and bool(np.isfinite(norms).all())
        yield _finding(
            (last, onset),
            int(loss.step[i + 1]) if back else None,
            float(stats.median(finite)),
            float(stats.median(loss.value[i + 1 : i + 1 + _AFTER_ROWS])) if back else None,
            RECOVERED if back else UNRESOLVED if calm else DIVERGED,
            {"rows": float(blank[i])},
        )


def _goes_on(recent: Sequence[int], blank: int, last: int) -> bool:
    """Whether rows go on as often as before: `blank` rows up to step `last`, after the `recent` steps with a loss."""
    if len(recent) < 2:
        return True
    before = (len(recent) - 1) / max(recent[-1] - recent[0], 1)
    return blank / max(last - recent[-1], 1) >= MIN_RATE * before


def _went_to_zero(past: Values, rows: int) -> bool:
    """Whether a loss that is zero now may be lost, after `rows` rows, the last of which are `past`."""
    past = past[np.isfinite(past)]
    if not past.size or not (past > 0).all():
        return False
    share = _ZERO_SHARE if rows >= PAST_ROWS else _SOON_SHARE
    return bool(past[-1] >= max(share * stats.median(past), _ROUNDING_TIMES * rounding(past)))


class _Stream(Stream):
    """The last rows with a loss, and how wide the gaps between all rows were. A gap that has ended counts among the
    usual ones, too: its alarm is settled once there are enough others."""

    def __init__(self) -> None:
        self._steps: deque[int] = deque(maxlen=_RATE_ROWS)
        self._past: deque[float] = deque(maxlen=_MEDIAN_ROWS)
        self._rows = self._blank = self._zeros = 0
        self._gaps: Counter[int] = Counter()
        self._step = self._blank_onset = self._zero_onset = -1
        self._blank_alarm: Alarm | None = None
        self._zero_alarm: Alarm | None = None
        self._zero_norms, self._went_to_zero = _Norms(), False
        self._ended_gaps: list[tuple[int, Alarm]] = []  # (rows, alarm) of gaps that may be usual ones

    def add_row(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`."""
        loss = as_float(row.get("loss"))
        if step < self._step or (step == self._step and (loss is None or self._blank == 0)):
            return ()
        blank = self._blank - (step == self._step)
        before, self._step = self._step, step
        alarms = self._blank_row(step) if loss is None else self._logged(step, loss, blank, before)
        return [*alarms, *self._zero_changes(step, as_float(row.get("grad_norm")))] if self._zeros else alarms

    def end(self, step: int) -> Sequence[Alarm]:
        """What changes because `step` was the last row."""
        alarms = self._settle(step, end=True)
        if self._blank_alarm is not None:
            goes_on = _goes_on(self._steps, self._blank, self._step) and self._wide(self._blank)
            alarms.append(replace(self._blank_alarm, step=step, state="settled" if goes_on else "withdrawn"))
        if self._zero_alarm is not None:
            alarms.append(replace(self._zero_alarm, step=step, state="settled"))
        self._blank_alarm = self._zero_alarm = None
        return alarms

    def rewind_to(self, step: int) -> None:
        """Forget the rows from `step` on."""
        steps = [past_step for past_step in self._steps if past_step < step]
        past = list(self._past)[: max(len(self._past) + len(steps) - len(self._steps), 0)]
        rows, gaps = self._rows, self._gaps
        self.__init__()
        self._steps.extend(steps)
        self._past.extend(past)
        self._rows, self._gaps, self._step = min(rows, len(past)), gaps, step - 1

    def _blank_row(self, step: int) -> Sequence[Alarm]:
        if self._steps:
            self._blank += 1
            if self._blank == 1:
                self._blank_onset = step
            if self._blank_alarm is None and self._blank >= MIN_ROWS and self._is_gap(step):
                self._blank_alarm = self._alarm(self._blank_onset, step)
                return (self._blank_alarm,)
        return ()

    def _zero_changes(self, step: int, norm: float | None) -> Sequence[Alarm]:
        """What changes with a row in a stretch of zeros."""
        if norm is not None:
            self._zero_norms.add(norm)
        lost = self._went_to_zero or self._zero_norms.dead or (not self._rows and self._zero_norms.zero)
        suspected = self._zeros >= ZERO_ROWS and lost
        before, self._zero_alarm = self._zero_alarm, self._zero_alarm if suspected else None
        if suspected and before is None:
            self._zero_alarm = self._alarm(self._zero_onset, step)
            return (self._zero_alarm,)
        return () if suspected or before is None else (replace(before, step=step, state="withdrawn"),)

    def _logged(self, step: int, loss: float, blank: int, before: int) -> Sequence[Alarm]:
        alarms: list[Alarm] = []
        self._blank = 0
        if self._steps:
            self._gaps[min(blank, _WIDEST_GAP)] += 1
        if self._blank_alarm is not None:
            if _goes_on(self._steps, blank, before):
                self._ended_gaps.append((blank, self._blank_alarm))
            else:
                alarms.append(replace(self._blank_alarm, step=step, state="withdrawn"))
            self._blank_alarm = None
        if self._ended_gaps:
            alarms += self._settle(step)
        self._steps.append(step)
        if loss == 0.0:
            self._zeros += 1
            if self._zeros == 1:
                self._zero_onset, self._zero_norms = step, _Norms()
                self._went_to_zero = _went_to_zero(np.array(self._past), self._rows)
            return alarms
        if self._zeros:
            if self._zero_alarm is not None:
                alarms.append(replace(self._zero_alarm, step=step, state="withdrawn"))
            self._past.extend([0.0] * min(self._zeros, _MEDIAN_ROWS))
            self._rows += self._zeros
            self._zeros, self._zero_alarm = 0, None
        self._past.append(loss)
        self._rows += 1
        return alarms

    def _settle(self, step: int, end: bool = False) -> list[Alarm]:
        """Settle the ended gaps that are wide; at the end, withdraw the others."""
        gaps = [(gap, self._wide(gap[0])) for gap in self._ended_gaps]
        self._ended_gaps = [] if end else [gap for gap, wide in gaps if not wide]
        return [
            replace(alarm, step=step, state="settled" if wide else "withdrawn")
            for (_, alarm), wide in gaps
            if wide or end
        ]

    def _is_gap(self, step: int) -> bool:
        last = 0.0 if self._zeros else self._past[-1]
        return last - last == 0.0 and self._wide(self._blank) and _goes_on(self._steps, self._blank, step)

    def _wide(self, rows: int) -> bool:
        return rows >= max(MIN_ROWS, TIMES * (_quantile(self._gaps, _USUAL_QUANTILE) + 1))

    def _alarm(self, onset: int, step: int) -> Alarm:
        return Alarm("suspected_non_finite", "suspected_non_finite", "loss", onset, step)


def _quantile(counts: Counter[int], share: float) -> float:
    """The quantile of counted whole numbers, interpolated as numpy does (linear); 0 where there are none."""
    rank = share * (counts.total() - 1)
    low = high = passed = 0
    for value, times in sorted(counts.items()):
        if passed <= rank:
            low = value
        if passed <= rank + 1:
            high = value
        passed += times
    return low + (high - low) * (rank % 1) if counts else 0.0


KIND = Kind("suspected_non_finite", "suspected non-finite loss", "fatal", "loss")

DETECTOR = Detector("suspected_non_finite", (KIND,), _detect, _Stream)
