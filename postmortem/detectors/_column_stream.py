"""The row-by-row version of the detectors of excursions: the latest rows of one column, and the alarms on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from postmortem.detectors._course import HORIZON_ROWS
from postmortem.detectors._excursion import Excursion
from postmortem.detectors._model import Alarm, Row, State, Stream, as_float
from postmortem.detectors._screen import MIN_UNIT, ScreenedColumn
from postmortem.detectors._tracking import ColumnSearch, Tracker
from postmortem.stats import median

_CAPACITY, _KEPT_ROWS = 8_192, 6_656
"""Rows that fit, and rows that remain when older ones are dropped: an open excursion is up to HORIZON_ROWS and three
SETTLE_ROWS old, the rows that are screened without it begin REACH_ROWS earlier, and a baseline may reach 4 REACH_ROWS
further back. Both are multiples of 32, so that blocks of rows begin where they begin in the whole run."""

_FINAL_SPANS = 8
"""Final excursions of the first scale that are remembered, so that the second scale does not report them again."""


class ColumnStream(Stream):
    """The row-by-row version of a detector of excursions of one column.

    While all values are positive, `search` runs over their logarithms, and with `linear` over the values themselves,
    too, for what the first one leaves; from the first other value on, over the values only, and once more over all rows
    that are kept. `judge` returns kind and `opens` of an excursion; with `one_kind` the kind is always the same.
    """

    def __init__(
        self,
        detector: str,
        column: str,
        search: Callable[[int], ColumnSearch],
        judge: Callable[[ScreenedColumn, Excursion], tuple[str, bool]],
        *,
        linear: bool = False,
        one_kind: bool = False,
    ) -> None:
        self._detector, self._column, self._make_search, self._judge = detector, column, search, judge
        self._linear, self._one_kind = linear, one_kind
        example = search(_CAPACITY)
        self._alert_rows, self._alert_mask = example.alert_rows, (1 << example.alert_window) - 1
        self._reset()

    def _reset(self) -> None:
        self._step = np.empty(_CAPACITY, dtype=np.int64)
        self._raw, self._log = np.empty(_CAPACITY), np.empty(_CAPACITY)
        self._rows = 0
        self._dropped = 0
        self._unit, self._unit_until = 1.0, 0
        scales = (True, False) if self._linear else (True,)
        self._trackers = [Tracker(self._make_search(_CAPACITY), log) for log in scales]
        self._alarms: dict[int, Alarm] = {}  # by onset step, as they were reported last
        self._final_spans: list[tuple[int, int]] = []
        self._last_step = -1
        self._new_steps: list[int] = []
        self._new_values: list[float] = []
        self._low, self._high, self._due_rows = -math.inf, -math.inf, 1
        self._high_bits = 0  # one bit for each of the last rows: whether it was above `_high`

    def add_row(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`."""
        value = row.get(self._column)
        if type(value) is not float:
            value = as_float(value)
        if value is None or step <= self._last_step or value - value != 0.0:
            return ()
        self._last_step = step
        self._new_steps.append(step)
        self._new_values.append(value)
        high_bits = self._high_bits = (self._high_bits << 1 | (value > self._high)) & self._alert_mask
        alert = high_bits.bit_count() >= self._alert_rows
        if value >= self._low and not alert and len(self._new_values) < self._due_rows:
            return ()
        with np.errstate(all="ignore"):
            return self._search_new_rows(step, alert)

    def end(self, step: int) -> Sequence[Alarm]:
        """What changes because `step` was the last row."""
        if not self._new_values and not self._rows:
            return ()
        with np.errstate(all="ignore"):
            return self._search_new_rows(step, False, end=True)

    def levels(self) -> Mapping[str, float]:
        """What the next value must exceed to be reported at once, in the column's own unit."""
        if self._alert_rows > 1:
            return {}
        self._store_new_rows()
        with np.errstate(all="ignore"):
            return {self._column: min(t.alert_level(self._signal(self._rows, t.log)) for t in self._trackers)}

    def rewind_to(self, step: int) -> None:
        """Forget the rows from `step` on: begin again with the kept rows before it."""
        self._store_new_rows()
        rows = int(np.searchsorted(self._step[: self._rows], step))
        steps, values = self._step[:rows].tolist(), self._raw[:rows].tolist()
        self._reset()
        for kept_step, value in zip(steps, values, strict=True):
            self.add_row(kept_step, {self._column: value})

    def _search_new_rows(self, step: int, alert: bool, end: bool = False) -> Sequence[Alarm]:
        self._store_new_rows()
        n = self._rows
        signals = [self._signal(n, tracker.log) for tracker in self._trackers]
        lows, highs, self._due_rows = [-math.inf], [math.inf], HORIZON_ROWS
        first = self._trackers[0]
        first.forget_final()
        for tracker, s in zip(self._trackers, signals, strict=True):
            if not first.open:
                tracker.forget_final()
            tracker.take_rows(s, alert, end)
            low, high, due = tracker.plan(s)
            lows.append(s.to_raw(low) if low > -math.inf else low)
            highs.append(s.to_raw(high) if high < math.inf else high)
            self._due_rows = min(self._due_rows, due)
        self._low, self._high = max(lows), min(highs)
        if not self._alarms and not any(tracker.open for tracker in self._trackers):
            return ()
        return self._changes(step, self._current_alarms(step, n, signals, end))

    def _store_new_rows(self) -> None:
        """Move the new rows into the arrays; drop the oldest ones where they do not fit."""
        new, self._new_values = self._new_values, []
        steps, self._new_steps = self._new_steps, []
        if self._rows + len(new) > _CAPACITY:
            drop = self._rows - _KEPT_ROWS
            for array in (self._step, self._raw, self._log):
                array[:_KEPT_ROWS] = array[drop : self._rows].copy()
            self._rows, self._dropped = _KEPT_ROWS, self._dropped + drop
            self._unit_until -= drop
            for tracker in self._trackers:
                tracker.drop_first(drop)
        n = self._rows + len(new)
        self._step[self._rows : n], self._raw[self._rows : n] = steps, new
        if self._trackers[0].log:
            if min(new, default=1.0) > 0:
                self._log[self._rows : n] = np.log(self._raw[self._rows : n])
            else:
                self._trackers = self._trackers[1:] or [Tracker(self._make_search(_CAPACITY), False)]
                self._trackers[0].search_with_next_row()
        self._rows = n
        if n >= self._unit_until and n and not self._trackers[-1].log:
            size = np.abs(self._raw[:n])
            self._unit = max(float(median(size)), MIN_UNIT * float(size.max()))
            self._unit_until = n + max(16, n // 8)

    def _signal(self, n: int, log: bool) -> ScreenedColumn:
        raw = self._raw[:n]
        y, unit = (self._log[:n], 1.0) if log else (raw, self._unit)
        return ScreenedColumn(self._column, self._step[:n], raw, y, log, unit, 1.0)

    def _current_alarms(self, step: int, n: int, signals: Sequence[ScreenedColumn], end: bool) -> dict[int, Alarm]:
        """The alarms on what is open, by onset step; what the first scale follows, the second does not report."""
        alarms: dict[int, Alarm] = {}
        spans = list(self._final_spans)
        for tracker, s in zip(self._trackers, signals, strict=True):
            sure, first = True, tracker is self._trackers[0]
            for o in tracker.open:
                span = o.e.onset + self._dropped, o.e.onset + self._dropped + max(o.e.course.end, 1)
                if any(span[0] < stop and start < span[1] for start, stop in spans):
                    continue
                if first:
                    spans.append(span)
                    if o.final:
                        self._final_spans = [*self._final_spans, span][-_FINAL_SPANS:]
                kind, opens = self._judge(s, o.e)
                decided = sure and o.is_decided(n, self._one_kind)
                settled = end or (decided and (first or not self._trackers[0].unsettled))
                sure = sure and o.final
                state: State = "settled" if settled else "open"
                onset = int(s.step[o.e.onset])
                alarms[onset] = Alarm(self._detector, kind, self._column, onset, step, opens, state)
        return alarms

    def _changes(self, step: int, alarms: dict[int, Alarm]) -> Sequence[Alarm]:
        """The alarms that are new, differ from the last report, or are withdrawn."""
        changes: list[Alarm] = []
        for onset, reported in list(self._alarms.items()):
            if onset not in alarms:
                if reported.state != "settled":
                    changes.append(replace(reported, step=step, state="withdrawn"))
                del self._alarms[onset]
        for onset, alarm in alarms.items():
            reported = self._alarms.get(onset)
            if reported is None or replace(alarm, step=reported.step) != reported:
                changes.append(alarm)
                self._alarms[onset] = alarm
        return changes
