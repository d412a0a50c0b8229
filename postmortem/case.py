"""One incident held against its run: the questions that panels and hypotheses ask of the columns around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np

from postmortem.detectors import DetectedIncident
from postmortem.diagnosis import Figure
from postmortem.run import Checkpoint, Labels, Run
from postmortem.series import Series
from postmortem.stats import robust_sigma
from postmortem.text import plain

BASELINE_ROWS = (
    100  # a rolling baseline as people read it off a dashboard: long enough for a MAD, short enough to be local
)
MIN_BASELINE_ROWS = 5
RELATIVE_FLOOR = 0.01  # a column that hardly varies still has a scale: one per cent of its level
MOVED_Z = 6.0  # robust z that counts as "this panel moved"


@dataclass(frozen=True)
class Observation:
    """What a panel saw: a slug that causes put weights on, a sentence for people, and the figures behind it.

    `strength` in (0, 1] scales every weight: 1 is a clear-cut case, less where the measurement is marginal.
    """

    slug: str
    text: str
    column: str = ""
    step: int | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    strength: float = 1.0
    moved: bool = True  # False for what stayed as it was: that, too, is evidence

    def figure(self, key: str) -> float:
        """A measured figure as a float. Raises KeyError where the observation has none of that name."""
        value = self.figures[key]
        return float("nan") if value is None else float(value)


@dataclass(frozen=True)
class Departure:
    """The largest departure of one column from its own baseline within the incident's span.

    `z` is the robust z-score (signed; on the logarithm where the column is positive), `ratio` is value ÷ baseline (NaN
    where the baseline is not positive), `first_step` the first row beyond MOVED_Z in the same direction.
    """

    column: str
    value: float
    step: int
    baseline: float
    z: float
    ratio: float
    first_step: int
    beyond: float  # |departure| ÷ the largest departure within the baseline, same scale

    @property
    def moved(self) -> bool:
        """Far out of the noise, and further than anything the baseline itself did."""
        return abs(self.z) >= MOVED_Z and self.beyond >= 1.5


@dataclass(frozen=True)
class Sibling:
    """Another run to hold this one against, with its incidents."""

    run: Run
    incidents: tuple[DetectedIncident, ...]

    def incident_near(self, step: int, rows: int, attempt: int | None = None) -> DetectedIncident | None:
        """One of the effective history, or of a rolled-back attempt, that spans `step` or lies within `rows` steps."""
        own = [i for i in self.incidents if i.lineage == attempt]
        return next((i for i in own if i.onset_step - rows <= step <= i.peak_step + rows), None)

    def consumed(self, batch_hash: object) -> Iterator[tuple[int, int | None]]:
        """(step, attempt or None) of each time that it consumed a batch: rolled-back stretches first, for they are
        where harm was done."""
        rolled_back = [s for s in self.run.segments if s.discarded]
        for attempt, since in (*((s.attempt, s.kept_until) for s in rolled_back), (None, 0)):
            labels = self.run.labels("batch_hash", attempt=attempt)
            if labels is not None:
                steps = labels.step[labels.value == batch_hash]
                yield from ((int(step), attempt) for step in steps[steps >= since])


class Case:
    """One incident, its run, and all incidents beside it. `text` says whether training text may be shown; `sibling` is
    another run that tells data from state, where one was given."""

    def __init__(
        self,
        run: Run,
        incident: DetectedIncident,
        incidents: tuple[DetectedIncident, ...],
        text: bool = True,
        sibling: Sibling | None = None,
    ) -> None:
        self.run, self.incident, self.incidents, self.text, self.sibling = run, incident, incidents, text, sibling

    def piece(self, token: int) -> str:
        """A token as people may read it: its piece where a decode table is there and text is wanted, else its id."""
        vocabulary = self._vocabulary
        known = vocabulary is not None and 0 <= token < len(vocabulary)
        return f"“{plain(vocabulary[token], 30)}”" if vocabulary is not None and known else f"id {token}"

    @cached_property
    def _vocabulary(self) -> Sequence[str] | None:
        return self.run.vocab() if self.text else None

    def series(self, name: str) -> Series | None:
        """The column as the incident's attempt saw it (a discarded incident is read in its own lineage)."""
        return self.run.series(name, attempt=self.incident.lineage)

    def labels(self, name: str) -> Labels | None:
        """`series` for columns of strings and lists."""
        return self.run.labels(name, attempt=self.incident.lineage)

    def numbers_at(self, column: str, step: int) -> tuple[float, ...] | None:
        """The list of numbers that `column` holds at `step`; None where not all are finite numbers."""
        labels = self.labels(column)
        value = labels.at(step) if labels is not None else None
        if not isinstance(value, (list, tuple, np.ndarray)):
            return None
        held = cast("list[object]", list(value))
        sound = [v for v in held if isinstance(v, (int, float, np.number)) and np.isfinite(float(v))]
        return tuple(float(v) for v in sound) if len(sound) == len(held) else None

    def family(self, prefix: str) -> tuple[str, ...]:
        """Columns logged per group or layer, e.g. `family("act_rms/")`."""
        return tuple(name for name in self.run.columns if name.startswith(prefix))

    @cached_property
    def row_step(self) -> int:
        """Steps between rows of the loss (or of whatever was logged): 1 where every step is."""
        steps = self.run.row_steps
        return max(1, int(np.median(np.diff(steps)))) if steps.size > 1 else 1

    @property
    def onset(self) -> int:
        return self.incident.onset_step

    @cached_property
    def healthy_before(self) -> int:
        """First step that an earlier incident does not spoil: the baseline starts here at the earliest."""
        return self.past_from(BASELINE_ROWS + 1)

    def past_from(self, rows: int) -> int:
        """First of up to `rows` rows before the onset that no earlier incident spoils."""
        ends = [i.recovery_step or i.peak_step for i in self.incidents if i.peak_step < self.onset]
        usable = [e + 1 for e in ends if e < self.onset - 20 * self.row_step]
        return max([self.onset - rows * self.row_step, *usable])

    @cached_property
    def span(self) -> tuple[int, int]:
        """[first, last) steps in which the other panels are searched: the onset to just after the peak.

        The loss at step t is measured before update t, so a cause one step before the onset and a consequence two rows
        after the peak both belong to the incident; a slow rise is searched no further than one baseline's length.
        """
        last = min(self.incident.peak_step, self.onset + BASELINE_ROWS * self.row_step)
        return self.onset - (self.row_step == 1), last + 3 * self.row_step + 1

    def baseline(self, name: str) -> Series | None:
        """Finite rows of `name` before the onset (up to BASELINE_ROWS); None where fewer than MIN_BASELINE_ROWS."""
        series = self.series(name)
        if series is None:
            return None
        before = series.window(self.healthy_before, self.onset - self.row_step)
        if len(before) < MIN_BASELINE_ROWS:  # logged sparsely: take as many rows as it takes, wherever they are
            end = int(np.searchsorted(series.step, self.onset))
            before = Series(name, series.step[max(0, end - 20) : end], series.value[max(0, end - 20) : end])
        keep = np.isfinite(before.value)
        before = Series(name, before.step[keep], before.value[keep])
        return before if len(before) >= MIN_BASELINE_ROWS else None

    def level(self, name: str) -> float | None:
        """Median of the baseline."""
        before = self.baseline(name)
        return None if before is None else float(np.median(before.value))

    def departure(self, name: str, span: tuple[int, int] | None = None, sign: int = 0) -> Departure | None:
        """The largest departure of `name` in `span` (default: the incident's); `sign` ±1 looks one way only.

        A non-finite value is an infinite departure. None where the column or its baseline is missing.
        """
        series, before = self.series(name), self.baseline(name)
        inside = None if series is None else series.window(*(span or self.span))
        if before is None or inside is None or not len(inside):
            return None
        positive = bool((before.value > 0).all())

        def scaled(values: np.ndarray) -> np.ndarray:
            return np.log(np.maximum(values, 1e-300)) if positive else values

        centre = float(np.median(scaled(before.value)))
        residual = scaled(before.value) - centre
        floor = RELATIVE_FLOOR if positive else RELATIVE_FLOOR * max(abs(centre), float(np.abs(residual).max()), 1e-300)
        scale = max(robust_sigma(residual, 0.0), floor)
        with np.errstate(invalid="ignore"):
            z = (scaled(inside.value) - centre) / scale
        z = np.where(np.isfinite(inside.value), z, np.inf * (sign or 1))
        worst = int(np.argmax(np.abs(z) if sign == 0 else sign * z))
        same_way = np.sign(z) == np.sign(z[worst])
        first = int(np.argmax(same_way & (np.abs(z) >= min(MOVED_Z, abs(z[worst])))))
        level = float(np.median(before.value))
        widest = max(float(np.abs(residual).max()), scale)
        agrees = sign == 0 or sign * float(z[worst]) > 0  # else nothing departed the way that was asked for
        return Departure(
            name,
            float(inside.value[worst]),
            int(inside.step[worst]),
            level,
            float(z[worst]),
            float(inside.value[worst]) / level if level > 0 else float("nan"),
            int(inside.step[first]),
            abs(float(z[worst])) * scale / widest if agrees else 0.0,
        )

    @cached_property
    def resume(self) -> int | None:
        """First step of an attempt that began within ten rows before the onset (or at it), if one did."""
        starts = [s.first_step for s in self.run.segments if s.attempt > 0]
        starts += [e.step for e in self.run.journal if e.event == "resume" and e.step is not None]
        near = [s for s in starts if 0 <= self.onset - s <= 10 * self.row_step]
        return max(near, default=None)

    @property
    def sound_state(self) -> int:
        """The last step whose state, before its update, cannot hold the damage.

        The loss of the onset is measured on that step's state: where the loss moved first, only the state of the last
        normal row is sound. What an update measures (gradient, parameters, moments) comes after it.
        """
        if self.incident.onset_interval:
            return self.incident.onset_interval[0]
        return self.onset - (self.incident.findings[0].column in ("loss", "eval_loss"))

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The newest complete checkpoint whose state precedes the onset: nothing that moved is in it. Of several of
        one step, one that does not reset the optimizer."""
        return max(
            (c for c in self.run.checkpoints if c.complete and c.step <= self.sound_state),
            key=lambda c: (c.step, not c.parameters_only),
            default=None,
        )

    def batch_window(self, rows: int | None = None) -> tuple[int, int]:
        """Absolute batch indices [first, last) consumed from the onset through the peak, or through `rows` rows.

        The loss at step t precedes update t, so the batch of the onset, and not only that of the peak, is in it. Where
        no batch_index is logged, one batch a step is assumed.
        """
        reach = self.incident.peak_step - self.onset
        last = self.onset + (reach if rows is None else (rows - 1) * self.row_step)
        if rows is None and reach > 20 * self.row_step:  # a peak that far off is a consequence, not the batch
            last = self.onset
        # Between sparse rows any batch since the last normal row may have done it.
        first = self.incident.onset_interval[0] if self.incident.onset_interval else self.onset - 1
        index = self.series("batch_index")
        before, used = (index.at(first), index.at(last)) if index is not None else (None, None)
        if before is None or used is None or not np.isfinite([before, used]).all():
            return first + 1, last + 1
        return int(before) + 1, int(used) + 1

    def loss_moved(self) -> bool:
        """Whether any finding of the incident is on the loss itself."""
        return any(f.column == "loss" for f in self.incident.findings)

    def loss_departed(self) -> bool:
        """Whether the loss left its baseline at all, be it downward or too briefly for a finding."""
        departure = self.departure("loss")
        return self.loss_moved() or (departure is not None and departure.moved)
