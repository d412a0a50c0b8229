"""A loss scale that falls several times close together: fp16 overflows that do not stop.

One halving now and then is how dynamic loss scaling probes its limit, and the descent from the initial scale is how it
finds it; neither is an incident.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from postmortem.detectors._model import (
    LINGERING,
    RECOVERED,
    UNRESOLVED,
    Alarm,
    Detector,
    Finding,
    Row,
    Stream,
    Telemetry,
    number,
    onset_interval,
)
from postmortem.detectors._steps import runs
from postmortem.incident import Kind
from postmortem.series import Series

FALLS, APART_ROWS, HELD_ROWS = 3, 50, 50
"""Three falls, each within 50 rows of the one before, after the scale has once held for 50 rows. (tr1-13B fell from
65,536 to 4,096, four halvings; GLM-130B about 30 steps ahead of its loss.)"""

SKIPS, SKIP_ROWS = 3, 10
"""Where only skipped steps are logged: three, each within 10 rows of the one before."""


def _find(t: Telemetry) -> Iterator[Finding]:
    scale = t.series("loss_scale")
    if scale is not None and scale.value.max() > 0 and np.ptp(scale.value) > 0:
        yield from _falls(scale)
        return
    skipped = t.series("skipped")
    if skipped is not None and len(skipped) > HELD_ROWS:
        yield from _skips(skipped)


def _held_from(changed: np.ndarray[tuple[int], np.dtype[np.intp]], rows: int) -> int:
    """First row before which the column once stood still for HELD_ROWS rows (or rose); `rows` where it never did."""
    edges = np.concatenate(([0], changed, [rows]))
    held = np.flatnonzero(np.diff(edges) >= HELD_ROWS)
    return int(edges[held[0]]) + HELD_ROWS if held.size else rows


def _falls(scale: Series) -> Iterator[Finding]:
    y = scale.value
    change = np.diff(y)
    first = _held_from(np.flatnonzero(change != 0) + 1, y.size)
    fallen = np.flatnonzero(change < 0) + 1
    for run in runs(fallen[fallen >= first], APART_ROWS):
        if run.size < FALLS:
            continue
        start, low = int(run[0]), int(run[-1])
        before = float(y[start - 1])
        back = np.flatnonzero(y[low:] >= before)
        calm = y.size - low > HELD_ROWS
        yield _finding(scale, start, low, low + int(back[0]) if back.size else None, before, float(run.size), calm)


def _skips(skipped: Series) -> Iterator[Finding]:
    y = skipped.value
    counts = np.diff(y, prepend=y[0]) if y.max() > 1 and (np.diff(y) >= 0).all() else y
    hit = np.flatnonzero(counts > 0)
    first = _held_from(hit, y.size)
    for run in runs(hit[hit >= first], SKIP_ROWS):
        if run.size >= SKIPS:
            end = int(run[-1]) + 1
            yield _finding(
                skipped, int(run[0]), int(run[-1]), end if end < y.size else None, 0.0, float(run.size), True
            )


def _finding(s: Series, start: int, low: int, back: int | None, before: float, times: float, calm: bool) -> Finding:
    return Finding(
        detector="loss_scale",
        kind="loss_scale_drop",
        column=s.name,
        onset_step=int(s.step[start]),
        onset_interval=onset_interval(s.step, start),
        peak_step=int(s.step[low]),
        recovery_step=None if back is None else int(s.step[back]),
        peak=float(s.value[low]),
        baseline=before,
        scale=0.0,
        score=times,
        settled=None,
        outcome=RECOVERED if back is not None else LINGERING if calm else UNRESOLVED,
        figures={"times": times, "height": times * float(np.log(2))},
    )


class _Runs:
    """Events of one column that come close together, after it once held still."""

    def __init__(self, least: int, apart: int) -> None:
        self._least, self._apart = least, apart
        self._edge = 0  # row of the last change
        self._held = False
        self._last = -math.inf
        self._count = self._onset = 0

    def event(self, row: int, step: int, counts: bool) -> int | None:
        """The column changed at `row`; `counts` where it is one that counts. Onset of the run that has become one."""
        self._held = self._held or row - self._edge >= HELD_ROWS
        self._edge = row
        if not (counts and self._held):
            return None
        if row - self._last > self._apart:
            self._count, self._onset = 0, step
        self._last = row
        self._count += 1
        return self._onset if self._count == self._least else None

    def forget_run(self) -> None:
        """What comes next begins a new run."""
        self._last = -math.inf


class _Stream(Stream):
    """Falls of the scale; while it never moved, skipped steps, as soon as it is known whether they are counted up."""

    def __init__(self) -> None:
        self._falls, self._skips = _Runs(FALLS, APART_ROWS), _Runs(SKIPS, SKIP_ROWS)
        self._scale: float | None = None
        self._skipped: float | None = None
        self._scale_rows = self._skip_rows = 0
        self._counted: bool | None = None  # whether `skipped` is counted up; None while both may be
        self._first: tuple[int, int] | None = None  # row and step of its first skip while that is not known
        self._moved = False
        self._scale_step = self._skip_step = -1

    def take(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`."""
        onset, column = None, ""
        scale, skipped = row.get("loss_scale"), row.get("skipped")
        if scale is not None and step > self._scale_step and (scale := number(scale)) is not None:
            self._scale_step = step
            onset, column = self._scaled(step, scale), "loss_scale"
        if skipped is not None and step > self._skip_step and (skipped := number(skipped)) is not None:
            self._skip_step = step
            if not self._moved:
                onset, column = self._skip(step, skipped), "skipped"
        return () if onset is None else (self._alarm(column, onset, step),)

    def end(self, step: int) -> Sequence[Alarm]:
        """What changes because `step` was the last row."""
        onset = self._flags(self._skip_rows) if self._counted is None and not self._moved else None
        return () if onset is None else (self._alarm("skipped", onset, step),)

    def rewound(self, step: int) -> None:
        """Runs begin anew; that the scale once held is not forgotten."""
        self._falls.forget_run()
        self._skips.forget_run()
        self._scale = None
        self._first = None
        self._scale_step = self._skip_step = step - 1
        if not self._counted:
            self._skipped = None

    def _alarm(self, column: str, onset: int, step: int) -> Alarm:
        return Alarm("loss_scale", "loss_scale_drop", column, onset, step, state="settled")

    def _scaled(self, step: int, scale: float) -> int | None:
        last, self._scale = self._scale, scale
        row = self._scale_rows
        self._scale_rows += 1
        if last is None or scale == last or (scale <= 0 and last <= 0):
            return None
        self._moved = True
        return self._falls.event(row, step, scale < last)

    def _skip(self, step: int, value: float) -> int | None:
        last, row = self._skipped or 0.0, self._skip_rows
        self._skipped = value
        self._skip_rows += 1
        if self._counted is None:
            if value < last:
                self._counted = False
                onset = self._flags(row)
                return onset if onset is not None else self._hit(row, step, value > 0)
            if value <= 1:
                if value > 0 and self._first is None:
                    self._first = row, step
                return None
            self._counted = True
            if self._first is not None:
                self._hit(*self._first, True)
        return self._hit(row, step, value > last if self._counted and row else value > 0 and not self._counted)

    def _hit(self, row: int, step: int, hit: bool) -> int | None:
        onset = self._skips.event(row, step, True) if hit else None
        return onset if row >= HELD_ROWS else None

    def _flags(self, until: int) -> int | None:
        """Each row from the first skip on was one, up to row `until`."""
        if self._first is None:
            return None
        first, step = self._first
        self._first = None
        found = [self._hit(row, step, True) for row in range(first, min(first + SKIPS, until))]
        return next((onset for onset in found if onset is not None), None)


KIND = Kind("loss_scale_drop", "loss-scale drop", "cause")

DETECTOR = Detector("loss_scale", (KIND,), _find, _Stream)
