"""A loss that was logged and goes blank, or exactly zero, while the run goes on: several loggers write NaN that way.

Where the gradient norm stays finite all the while, it may as well be the logger: such a stretch is unresolved.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import (
    DIVERGED,
    RECOVERED,
    UNRESOLVED,
    Alarm,
    Detector,
    Finding,
    Row,
    Stream,
    Telemetry,
    number,
)
from postmortem.incident import Kind, Outcome
from postmortem.series import Series

LEAST_ROWS, TIMES, LEAST_RATE = 10, 5.0, 0.5
"""Blank rows that make a gap: at least 10, five times the widest usual gap (99 % quantile), and coming at half the rate
(rows per step) at which losses came before, so that evaluation rows after the last training row do not count."""


ZERO_ROWS, PAST_ROWS = 3, 12
"""A positive loss that is exactly zero in its last 3 rows or more, after 12 or more that were not."""

_MEDIAN_ROWS, _RATE_ROWS = 50, 100
_WIDEST_GAP = 1_000
"""A stream does not tell wider gaps apart."""

Values = NDArray[np.float64]


def _find(t: Telemetry) -> Iterator[Finding]:
    loss = t.series("loss")
    if loss is None or len(loss) < 2:
        return
    yield from _zero(t, loss)
    if t.row_steps.size - len(loss) >= LEAST_ROWS:
        yield from _blank(t, loss)


def _zero(t: Telemetry, loss: Series) -> Iterator[Finding]:
    (others,) = np.nonzero(loss.value)
    first = int(others[-1]) + 1 if others.size else 0
    past = loss.value[max(first - _MEDIAN_ROWS, 0) : first]
    if len(loss) - first < ZERO_ROWS or not _went_to_zero(past, first):
        return
    baseline = float(np.median(past))
    onset, last = int(loss.step[first]), int(loss.step[first - 1])
    outcome = UNRESOLVED if _calm(t, onset, int(loss.step[-1])) else DIVERGED
    yield _finding((last, onset), None, baseline, None, outcome, {"zeros": float(len(loss) - first)})


def _calm(t: Telemetry, first: int, last: int) -> bool:
    """Whether the gradient norm was logged in the stretch, and finite in all of it."""
    norm = t.series("grad_norm")
    inside = None if norm is None else norm.window(first, last + 1)
    return inside is not None and len(inside) >= ZERO_ROWS and bool(np.isfinite(inside.value).all())


def _finding(
    between: tuple[int, int],
    back: int | None,
    baseline: float,
    settled: float | None,
    outcome: Outcome,
    figures: dict[str, float],
) -> Finding:
    """`between`: the last step with a loss, and the first without."""
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


def _blank(t: Telemetry, loss: Series) -> Iterator[Finding]:
    rows = np.searchsorted(t.row_steps, loss.step)
    blank = np.diff(np.append(rows, t.row_steps.size)) - 1
    usual = float(np.quantile(blank[:-1], 0.99)) if blank.size > 1 else 0.0
    for i in np.flatnonzero(blank >= max(LEAST_ROWS, TIMES * (usual + 1))).tolist():
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
        calm = not back and _calm(t, onset, int(t.row_steps[-1]))
        yield _finding(
            (last, onset),
            int(loss.step[i + 1]) if back else None,
            float(np.median(finite)),
            float(np.median(loss.value[i + 1 : i + 21])) if back else None,
            RECOVERED if back else UNRESOLVED if calm else DIVERGED,
            {"rows": float(blank[i])},
        )


def _goes_on(recent: Sequence[int], blank: int, last: int) -> bool:
    """Whether the `blank` rows since the last of `recent` steps with a loss, up to step `last`, come as often."""
    if len(recent) < 2:
        return True
    before = (len(recent) - 1) / max(recent[-1] - recent[0], 1)
    return blank / max(last - recent[-1], 1) >= LEAST_RATE * before


def _went_to_zero(past: Values, rows: int) -> bool:
    """Whether a loss may be taken for lost that is zero now, after `rows` rows, the last of which are `past`."""
    if rows < PAST_ROWS or not (past > 0).all():
        return False
    return bool(past[-1] >= 0.01 * np.median(past))  # else it went there by itself


class _Stream(Stream):
    """The last rows with a loss, and how wide the gaps between all of them were. A gap that is over counts among the
    usual ones, too: its alarm is settled once there are enough of them."""

    def __init__(self) -> None:
        self._steps: deque[int] = deque(maxlen=_RATE_ROWS)
        self._past: deque[float] = deque(maxlen=_MEDIAN_ROWS)
        self._rows = self._blank = self._zeros = 0
        self._gaps: Counter[int] = Counter()
        self._step = self._blank_onset = self._zero_onset = -1
        self._gone: Alarm | None = None  # the loss is blank
        self._zero: Alarm | None = None
        self._over: list[tuple[int, Alarm]] = []  # rows of gaps that may be usual ones

    def take(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`."""
        loss = number(row.get("loss"))
        if step < self._step or (step == self._step and (loss is None or self._blank == 0)):
            return ()
        blank = self._blank - (step == self._step)
        before, self._step = self._step, step
        if loss is not None:
            return self._logged(step, loss, blank, before)
        if self._steps:
            self._blank += 1
            if self._blank == 1:
                self._blank_onset = step
            if self._gone is None and self._blank >= LEAST_ROWS and self._is_gap(step):
                self._gone = self._alarm(self._blank_onset, step)
                return (self._gone,)
        return ()

    def end(self, step: int) -> Sequence[Alarm]:
        """What changes because `step` was the last row."""
        alarms = self._settle(step, end=True)
        if self._gone is not None:
            goes_on = _goes_on(self._steps, self._blank, self._step) and self._wide(self._blank)
            alarms.append(replace(self._gone, step=step, state="settled" if goes_on else "withdrawn"))
        if self._zero is not None:
            alarms.append(replace(self._zero, step=step, state="settled"))
        self._gone = self._zero = None
        return alarms

    def rewound(self, step: int) -> None:
        """Forget the rows from `step` on."""
        steps = [known for known in self._steps if known < step]
        past = list(self._past)[: max(len(self._past) + len(steps) - len(self._steps), 0)]
        rows, gaps = self._rows, self._gaps
        self.__init__()
        self._steps.extend(steps)
        self._past.extend(past)
        self._rows, self._gaps, self._step = min(rows, len(past)), gaps, step - 1

    def _logged(self, step: int, loss: float, blank: int, before: int) -> Sequence[Alarm]:
        alarms: list[Alarm] = []
        self._blank = 0
        if self._steps:
            self._gaps[min(blank, _WIDEST_GAP)] += 1
        if self._gone is not None:
            if _goes_on(self._steps, blank, before):
                self._over.append((blank, self._gone))
            else:
                alarms.append(replace(self._gone, step=step, state="withdrawn"))
            self._gone = None
        if self._over:
            alarms += self._settle(step)
        self._steps.append(step)
        if loss == 0.0:
            self._zeros += 1
            if self._zeros == 1:
                self._zero_onset = step
            if self._zeros == ZERO_ROWS and _went_to_zero(np.array(self._past), self._rows):
                self._zero = self._alarm(self._zero_onset, step)
                alarms.append(self._zero)
            return alarms
        if self._zeros:
            if self._zero is not None:
                alarms.append(replace(self._zero, step=step, state="withdrawn"))
            self._past.extend([0.0] * min(self._zeros, _MEDIAN_ROWS))
            self._rows += self._zeros
            self._zeros, self._zero = 0, None
        self._past.append(loss)
        self._rows += 1
        return alarms

    def _settle(self, step: int, end: bool = False) -> list[Alarm]:
        """Settle the gaps that are over and wide, or all of them at the end."""
        wide = [self._wide(rows) for rows, _ in self._over]
        done = [(one, is_wide) for (_, one), is_wide in zip(self._over, wide, strict=True) if is_wide or end]
        self._over = [one for one, is_wide in zip(self._over, wide, strict=True) if not is_wide and not end]
        return [replace(one, step=step, state="settled" if is_wide else "withdrawn") for one, is_wide in done]

    def _is_gap(self, step: int) -> bool:
        last = 0.0 if self._zeros else self._past[-1]
        return last - last == 0.0 and self._wide(self._blank) and _goes_on(self._steps, self._blank, step)

    def _wide(self, rows: int) -> bool:
        return rows >= max(LEAST_ROWS, TIMES * (_quantile(self._gaps, 0.99) + 1))

    def _alarm(self, onset: int, step: int) -> Alarm:
        return Alarm("suspected_non_finite", "suspected_non_finite", "loss", onset, step)


def _quantile(counts: Counter[int], share: float) -> float:
    """The quantile of counted whole numbers, interpolated as numpy does; 0 where there are none."""
    at = share * (counts.total() - 1)
    low = high = seen = 0
    for value, times in sorted(counts.items()):
        if seen <= at:
            low = value
        if seen <= at + 1:
            high = value
        seen += times
    return low + (high - low) * (at % 1) if counts else 0.0


KIND = Kind("suspected_non_finite", "suspected non-finite loss", "fatal", "loss")

DETECTOR = Detector("suspected_non_finite", (KIND,), _find, _Stream)
