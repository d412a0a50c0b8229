"""A loss scale that falls several times in a short time, which is what fp16 overflows do that do not stop; and, where
no scale moves, updates that are skipped several times in a short time.

Dynamic loss scaling probes its limit by a halving now and then, and finds it by descending from the initial scale:
neither is an incident. Skipped updates are a kind of their own: trainers also skip them for a NaN or a large gradient,
without a scaler and in any dtype.
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
    as_float,
    onset_interval,
)
from postmortem.detectors._steps import runs
from postmortem.incident import Kind
from postmortem.series import Series

FALLS, APART_ROWS, STEADY_ROWS = 3, 50, 50
"""Three falls, each within 50 rows of the one before, after the scale was once steady for 50 rows. (tr1-13B fell from
65,536 to 4,096, four halvings; GLM-130B about 30 steps ahead of its loss.)"""

SKIPS, SKIP_ROWS = 3, 10
"""Where only skipped steps are logged: three, each within 10 rows of the one before."""

KIND_OF = {"loss_scale": "loss_scale_drop", "skipped": "skipped_updates"}
"""What is found in each of the two columns."""


def _detect(t: Telemetry) -> Iterator[Finding]:
    scale = t.series("loss_scale")
    if scale is not None and scale.value.max() > 0 and np.ptp(scale.value) > 0:
        yield from _falls(scale)
        return
    skipped = t.series("skipped")
    if skipped is not None and len(skipped) > STEADY_ROWS:
        yield from _skips(skipped)


def _first_steady(changed: np.ndarray[tuple[int], np.dtype[np.intp]], rows: int) -> int:
    """The first row before which the column was steady for STEADY_ROWS rows; `rows` where it never was."""
    edges = np.concatenate(([0], changed, [rows]))
    steady = np.flatnonzero(np.diff(edges) >= STEADY_ROWS)
    return int(edges[steady[0]]) + STEADY_ROWS if steady.size else rows


def _falls(scale: Series) -> Iterator[Finding]:
    y = scale.value
    change = np.diff(y)
    first = _first_steady(np.flatnonzero(change != 0) + 1, y.size)
    fallen = np.flatnonzero(change < 0) + 1
    for run in runs(fallen[fallen >= first], APART_ROWS):
        if run.size < FALLS:
            continue
        start, low = int(run[0]), int(run[-1])
        before = float(y[start - 1])
        back = np.flatnonzero(y[low:] >= before)
        calm = y.size - low > STEADY_ROWS
        yield _finding(scale, start, low, low + int(back[0]) if back.size else None, before, float(run.size), calm)


def _skips(skipped: Series) -> Iterator[Finding]:
    y = skipped.value
    hit = np.flatnonzero(skipped.increments().value > 0)
    first = _first_steady(hit, y.size)
    for run in runs(hit[hit >= first], SKIP_ROWS):
        if run.size >= SKIPS:
            end = int(run[-1]) + 1
            yield _finding(
                skipped, int(run[0]), int(run[-1]), end if end < y.size else None, 0.0, float(run.size), True
            )


def _finding(s: Series, start: int, low: int, back: int | None, before: float, times: float, calm: bool) -> Finding:
    return Finding(
        detector="loss_scale",
        kind=KIND_OF[s.name],
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


class _EventGroups:
    """Events of one column that come close together, after it was steady once."""

    def __init__(self, events: int, apart: int) -> None:
        self._events, self._apart = events, apart
        self._last_change = 0  # row
        self._was_steady = False
        self._last = -math.inf
        self._count = self._onset = 0

    def change(self, row: int, step: int, counts: bool) -> int | None:
        """The column changed at `row`; `counts`: it is an event. The onset step of a group that is large enough now."""
        self._was_steady = self._was_steady or row - self._last_change >= STEADY_ROWS
        self._last_change = row
        if not (counts and self._was_steady):
            return None
        if row - self._last > self._apart:
            self._count, self._onset = 0, step
        self._last = row
        self._count += 1
        return self._onset if self._count == self._events else None

    def close_group(self) -> None:
        """The next event begins a new group."""
        self._last = -math.inf


class _Stream(Stream):
    """Falls of the scale; while it never moved, skipped steps, once it is known whether their column is a total."""

    def __init__(self) -> None:
        self._falls, self._skips = _EventGroups(FALLS, APART_ROWS), _EventGroups(SKIPS, SKIP_ROWS)
        self._scale: float | None = None
        self._skipped: float | None = None
        self._scale_rows = self._skip_rows = 0
        self._is_total: bool | None = (
            None  # whether `skipped` is a running total, or a flag; None while that is not known
        )
        self._first_skip: tuple[int, int] | None = None  # its row and step while that is not known
        self._moved = False
        self._scale_step = self._skip_step = -1

    def add_row(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`."""
        onset, column = None, ""
        scale, skipped = row.get("loss_scale"), row.get("skipped")
        if scale is not None and step > self._scale_step and (scale := as_float(scale)) is not None:
            self._scale_step = step
            onset, column = self._onset_by_scale(step, scale), "loss_scale"
        if skipped is not None and step > self._skip_step and (skipped := as_float(skipped)) is not None:
            self._skip_step = step
            if not self._moved:
                onset, column = self._onset_by_skips(step, skipped), "skipped"
        return () if onset is None else (self._alarm(column, onset, step),)

    def end(self, step: int) -> Sequence[Alarm]:
        """What changes because `step` was the last row."""
        onset = self._flag_onset(self._skip_rows) if self._is_total is None and not self._moved else None
        return () if onset is None else (self._alarm("skipped", onset, step),)

    def rewind_to(self, step: int) -> None:
        """Groups of events begin again; that the column was steady once is still true."""
        self._falls.close_group()
        self._skips.close_group()
        self._scale = None
        self._first_skip = None
        self._scale_step = self._skip_step = step - 1
        if not self._is_total:
            self._skipped = None

    def _alarm(self, column: str, onset: int, step: int) -> Alarm:
        return Alarm("loss_scale", KIND_OF[column], column, onset, step, state="settled")

    def _onset_by_scale(self, step: int, scale: float) -> int | None:
        last, self._scale = self._scale, scale
        row = self._scale_rows
        self._scale_rows += 1
        if last is None or scale == last or (scale <= 0 and last <= 0):
            return None
        self._moved = True
        return self._falls.change(row, step, scale < last)

    def _onset_by_skips(self, step: int, value: float) -> int | None:
        last, row = self._skipped or 0.0, self._skip_rows
        self._skipped = value
        self._skip_rows += 1
        if self._is_total is None:
            if value < last:
                self._is_total = False
                onset = self._flag_onset(row)
                return onset if onset is not None else self._skip_onset(row, step, value > 0)
            if value <= 1:
                if value > 0 and self._first_skip is None:
                    self._first_skip = row, step
                return None
            self._is_total = True
            if self._first_skip is not None:
                self._skip_onset(*self._first_skip, True)
        return self._skip_onset(row, step, value > last if self._is_total and row else value > 0 and not self._is_total)

    def _skip_onset(self, row: int, step: int, hit: bool) -> int | None:
        """The onset where this row completes a group; none before the column can have been steady."""
        onset = self._skips.change(row, step, True) if hit else None
        return onset if row >= STEADY_ROWS else None

    def _flag_onset(self, until: int) -> int | None:
        """The onset where the column is a flag: each row from the first skip up to row `until` was a skip."""
        if self._first_skip is None:
            return None
        first, step = self._first_skip
        self._first_skip = None
        onsets = [self._skip_onset(row, step, True) for row in range(first, min(first + SKIPS, until))]
        return next((onset for onset in onsets if onset is not None), None)


KINDS = (
    Kind("loss_scale_drop", "loss-scale drop", "cause", precursor=True),  # a fall skips an update, which harms nothing
    Kind("skipped_updates", "skipped updates", "cause", "nothing"),
)

DETECTOR = Detector("loss_scale", KINDS, _detect, _Stream)
