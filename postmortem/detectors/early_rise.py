"""A loss that rises in the first rows of a log and stays up: there is no past yet to measure noise in.

A training loss falls in its first rows, and steeply. Noise moves it both ways and a warmup makes it waver, but nothing
usual puts five rows in a row at twice all that was logged directly before them. So the rule needs no baseline: it
compares the lowest of five rows with the highest of up to four rows before.

How often noise alone does that: of independent rows with log-normal noise of sigma s, the lowest of five is 1.16 s
below the mean and the highest of four 1.03 s above it. At s = 0.3 (a small batch) a rise by log 2 lies 4.5 s above
that; in 20,000 simulated heads it was found once, at s = 0.5 in 62. Fewer rows before say less about noise: `_NEEDS`
asks more of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._course import SOON_ROWS
from postmortem.detectors._excursion import DIVERGENCE, excursion_finding, follow_excursion
from postmortem.detectors._model import DIVERGED, Alarm, Detector, Finding, Row, State, Stream, Telemetry
from postmortem.detectors._recent import RecentRows
from postmortem.detectors._screen import MIN_ROWS, MIN_SCALE, ScreenedColumn
from postmortem.stats import median

AFTER_ROWS = SOON_ROWS
"""Rows from the rise on whose lowest counts."""

HEAD_ROWS = 2 * MIN_ROWS + AFTER_ROWS
"""The rows that are looked at: those with too little past for the other detectors of the loss, and what follows: a rise
may take some rows."""

_NEEDS = ((5.0, 3.0, 4.0), (2.0, 0.5, 2.0), (2.0, 0.5, 0.5), (2.0, 0.5, 0.5))
"""For one, two, … rows before: the factor of a rise; the nats per token, for a loss near zero (RL, a KL term that
starts at zero) multiplies without harm, and a lone first row may be an outlier; the multiple of what the rows waver."""

_LEAST = min(factor for factor, _, _ in _NEEDS)

LOST_ROWS = 20
"""A loss that stands above its first rows for this many rows diverged, even where it falls later: what it had learned
is lost, and what it learns then it learns anew. One that comes back sooner had not learned anything yet: the first
updates of a large model may take it up, and the next ones down again."""

Values = NDArray[np.float64]


def _detect(t: Telemetry) -> Iterator[Finding]:
    loss = t.series("loss")
    if loss is None:
        return
    finite = np.isfinite(loss.value)
    step, raw = loss.step[finite], loss.value[finite]
    row = rise_row(raw[:HEAD_ROWS])
    if row is None:
        return
    positive = raw[row:] > 0
    rows = raw.size if positive.all() else row + int(np.argmin(positive))  # a zero later on is no return
    first = max(row - len(_NEEDS), 0)  # the rows before may be anything
    s = ScreenedColumn("loss", step[first:rows], raw[first:rows], np.log(raw[first:rows]), True, 1.0, 1.0)
    row -= first
    before = s.y[:row]
    scale = max(_largest_rise(before), MIN_SCALE)
    e = follow_excursion(s, row, row, row, float(median(before)), scale)
    f = excursion_finding(s, e, "early_rise", DIVERGENCE.slug)
    above = s.y[row:] > before.max()
    rows_above = above.size if above.all() else int(np.argmin(above))
    if rows_above < min(LOST_ROWS, above.size):
        return
    yield replace(f, outcome=DIVERGED) if rows_above >= LOST_ROWS else f


def rise_row(head: Values) -> int | None:
    """The row from which on the first rows of a loss, finite float64[n], are up and stay up; None where there is none.

    The first rows that give it away decide, so that more rows change nothing."""
    ends = range(AFTER_ROWS + 1, min(head.size, HEAD_ROWS) + 1)
    return next((row for end in ends if (row := _rise_until(head[:end])) is not None), None)


def _rise_until(head: Values) -> int | None:
    """The row with which the rise began that the last `AFTER_ROWS` rows show; None where they show none.

    A rise may take more rows than these: then the rows before them are above all that was before, too. It began where
    the gap is widest."""
    after, lowest = head[-AFTER_ROWS:], np.minimum.accumulate(head[::-1])[::-1]
    began, widest = None, 1.0
    if after.min() < _LEAST * head.min():
        return None
    for row in range(1, min(MIN_ROWS, head.size - AFTER_ROWS) + 1):
        before = head[max(row - len(_NEEDS), 0) : row]
        top = float(before.max())
        if lowest[row] > widest * top and _is_rise(before, after):
            began, widest = row, float(lowest[row]) / top
    return began


def _is_rise(before: Values, after: Values) -> bool:
    factor, nats, share = _NEEDS[before.size - 1]
    if before.min() <= 0 or after.min() - before.max() < nats:
        return False
    waver = max(_largest_rise(np.log(before)), _largest_rise(np.log(after[::-1])))
    return bool(np.log(after.min() / before.max()) >= max(np.log(factor), share * waver))


def _largest_rise(y: Values) -> float:
    """By how much a later row exceeds an earlier one at most."""
    return float(np.max(y - np.minimum.accumulate(y)))


class _Stream(Stream):
    """The first rows. A rise is settled once it lasts, and withdrawn where the loss comes back before."""

    def __init__(self) -> None:
        self._rows = RecentRows()
        self._rise: int | None = None
        self._over = False

    def add_row(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`."""
        if self._over or self._rows.add(step, row.get("loss")) is None:
            return ()
        values = self._rows.values
        if self._rise is None:
            self._rise = _rise_until(np.array(values)) if len(values) > AFTER_ROWS else None
            self._over = self._rise is None and len(values) >= HEAD_ROWS
            return () if self._rise is None else (self._alarm(self._rise, step, "open"),)
        back = values[-1] <= max(values[max(self._rise - len(_NEEDS), 0) : self._rise])
        self._over = back or len(values) - self._rise >= LOST_ROWS
        return (self._alarm(self._rise, step, "withdrawn" if back else "settled"),) if self._over else ()

    def _alarm(self, rise: int, step: int, state: State) -> Alarm:
        return Alarm("early_rise", DIVERGENCE.slug, "loss", self._rows.steps[rise], step, state=state)

    def end(self, step: int) -> Sequence[Alarm]:
        """A rise that has not come back is one."""
        ends = self._rise is not None and not self._over
        return (self._alarm(self._rise, step, "settled"),) if ends and self._rise is not None else ()

    def rewind_to(self, step: int) -> None:
        """Forget the rows from `step` on."""
        rows = self._rows.rewind(step)
        if rows < HEAD_ROWS:
            self._over = False
        if self._rise is not None and rows <= self._rise + AFTER_ROWS:
            self._rise = None


DETECTOR = Detector("early_rise", (DIVERGENCE,), _detect, _Stream)
