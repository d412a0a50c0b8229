"""One incident with its run: baselines, and departures from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np

from postmortem import stats
from postmortem.departure import Departure, beside_others, measure_departure
from postmortem.detectors import DetectedIncident, Finding
from postmortem.diagnosis import Figure
from postmortem.run import Checkpoint, LabelSeries, Run
from postmortem.run.event_meaning import not_restored, piece_kind
from postmortem.run.response import Response, response
from postmortem.run.timeline import Timeline, TimelineEvent
from postmortem.series import Series
from postmortem.shown import NOTHING
from postmortem.stats import EMA_ROWS, Level, recent_level
from postmortem.text import plain

if TYPE_CHECKING:
    from postmortem.checkpoint.health import Health

BASELINE_ROWS = 100  # rows of a baseline: enough for a robust sigma, few enough to be local
MIN_BASELINE_ROWS = 5  # fewer say nothing about noise
MIN_CLEAN_ROWS = 20  # rows since an earlier incident that are enough for a baseline
SPARSE_BASELINE_ROWS = 20  # rows of the baseline of a column that is logged too seldom for the usual one
RESUME_ROWS = 10  # rows before the onset in which a resume may matter
AFTER_ROWS = 200  # rows after an incident in which what was done about it, and whether that worked, is looked for
RANK_LOSS = "loss/rank"  # what the columns of one rank's loss begin with
FAR_PEAK_ROWS = 20  # a peak further from the onset is a consequence, not the batch


@dataclass(frozen=True)
class Observation:
    """One piece of evidence from a panel: a slug that causes put weights on, a sentence, and its figures.

    `strength` in (0, 1] scales every weight: 1 is a clear-cut case, less where the measurement is marginal.
    """

    slug: str
    text: str
    column: str = ""
    step: int | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    strength: float = 1.0
    moved: bool = True  # False where nothing changed: that is evidence, too

    def figure(self, key: str) -> float:
        """A measured figure as a float; NaN where it is None.

        Raises:
            KeyError: the observation has no figure of this name.
        """
        value = self.figures[key]
        return float("nan") if value is None else float(value)


@dataclass(frozen=True)
class Sibling:
    """Another run that this one is compared with, and its incidents."""

    run: Run
    incidents: tuple[DetectedIncident, ...]

    def incident_near(self, step: int, rows: int, attempt: int | None = None) -> DetectedIncident | None:
        """An incident of the effective history, or of a rolled-back attempt, at most `rows` steps away from `step`."""
        in_lineage = [i for i in self.incidents if i.lineage == attempt]
        return next((i for i in in_lineage if i.onset_step - rows <= step <= i.peak_step + rows), None)

    def consumed(self, batch_hash: object) -> Iterator[tuple[int, int | None]]:
        """(step, attempt or None) of each time that the run used a batch: rolled-back stretches first, because the harm
        was done there."""
        rolled_back = [s for s in self.run.segments if s.discarded]
        for attempt, since in (*((s.attempt, s.kept_until) for s in rolled_back), (None, 0)):
            labels = self.run.labels("batch_hash", attempt=attempt)
            if labels is not None:
                steps = labels.step[labels.value == batch_hash]
                yield from ((int(step), attempt) for step in steps[steps >= since])


class Case:
    """One incident, its run, and all incidents of that run. `text`: training text may be shown. `sibling` is another
    run, if one was given, that helps to tell the data from the state. `shown`: by replays of the incident."""

    def __init__(
        self,
        run: Run,
        incident: DetectedIncident,
        incidents: tuple[DetectedIncident, ...],
        text: bool = True,
        sibling: Sibling | None = None,
    ) -> None:
        self.run, self.incident, self.incidents, self.text, self.sibling = run, incident, incidents, text, sibling
        self.shown = NOTHING

    def piece(self, token: int) -> str:
        """A token for people: its piece where the run has a decode table and text may be shown, else its id."""
        vocabulary = self._vocabulary
        if vocabulary is None or not 0 <= token < len(vocabulary):
            return f"id {token}"
        return f"“{plain(vocabulary[token], 30)}”"

    @cached_property
    def _vocabulary(self) -> Sequence[str] | None:
        return self.run.vocab() if self.text else None

    def series(self, name: str) -> Series | None:
        """The column as the incident's attempt saw it (a discarded incident is read in its own lineage)."""
        return self.run.series(name, attempt=self.incident.lineage)

    def labels(self, name: str) -> LabelSeries | None:
        """`series` for columns of strings and lists."""
        return self.run.labels(name, attempt=self.incident.lineage)

    def numbers_at(self, column: str, step: int) -> tuple[float, ...] | None:
        """The list of numbers in `column` at `step`; None where there is none, or not all are finite numbers."""
        labels = self.labels(column)
        value = labels.at(step) if labels is not None else None
        if not isinstance(value, (list, tuple, np.ndarray)):
            return None
        items = cast("list[object]", list(value))
        finite = [v for v in items if isinstance(v, (int, float, np.number)) and np.isfinite(float(v))]
        return tuple(float(v) for v in finite) if len(finite) == len(items) else None

    def family(self, prefix: str) -> tuple[str, ...]:
        """Columns logged per group or layer, e.g. `family("act_rms/")`."""
        return tuple(name for name in self.run.columns if name.startswith(prefix))

    @cached_property
    def row_step(self) -> int:
        """Steps between two rows, by their median: 1 where every step is logged."""
        steps = self.run.row_steps
        return max(1, int(stats.median(np.diff(steps)))) if steps.size > 1 else 1

    @property
    def onset(self) -> int:
        """The first abnormal step."""
        return self.incident.onset_step

    @cached_property
    def primary(self) -> Finding:
        """The finding that gave the incident its kind, its recovery and its outcome."""
        incident = self.incident

        def unlike(f: Finding) -> tuple[bool, ...]:
            other = f.outcome != incident.outcome or f.recovery_step != incident.recovery_step
            return f.kind != incident.kind, other, f.column != "loss", f.peak_step != incident.peak_step

        return min(incident.findings, key=unlike)

    def before(self, name: str = "loss") -> Level | None:
        """The level of `name` at its last finite row before the onset; None where there is no such row."""
        series = self.series(name)
        past = None if series is None else series.window(self.unaffected_from(4 * EMA_ROWS), self.onset).value
        finite = np.empty(0) if past is None else past[np.isfinite(past)]
        return recent_level(finite) if finite.size else None

    @cached_property
    def baseline_start(self) -> int:
        """The first step of the baseline: no earlier incident affects it or later ones."""
        return self.unaffected_from(BASELINE_ROWS + 1)

    def unaffected_from(self, rows: int) -> int:
        """The first step of up to `rows` rows before the onset that no earlier incident affects."""
        ends = [i.recovery_step or i.peak_step for i in self.incidents if i.peak_step < self.onset]
        usable = [e + 1 for e in ends if e < self.onset - MIN_CLEAN_ROWS * self.row_step]
        return max([self.onset - rows * self.row_step, *usable])

    @cached_property
    def span(self) -> tuple[int, int]:
        """[first, last) steps in which the other columns are searched: from the onset to just after the peak.

        The loss at step t is measured before update t, so a cause one step before the onset and a consequence two rows
        after the peak both belong to the incident; a slow rise is searched for BASELINE_ROWS rows only.
        """
        last = min(self.incident.peak_step, self.onset + BASELINE_ROWS * self.row_step)
        return self.onset - (self.row_step == 1), last + 3 * self.row_step + 1

    def span_of(self, name: str) -> tuple[int, int]:
        """[first, last) steps in which the column `name` is searched: the column that the incident is one of from its
        own onset through its peak, so that each section tells of the same row."""
        main, peak = self.primary, self.incident.peak_step
        return (main.onset_step, peak + 1) if name == main.column and main.onset_step <= peak else self.span

    def baseline(self, name: str) -> Series | None:
        """Finite rows of `name` before the onset (up to BASELINE_ROWS); None where fewer than MIN_BASELINE_ROWS."""
        series = self.series(name)
        return None if series is None else self._rows_before(series)

    def _rows_before(self, series: Series) -> Series | None:
        before = series.window(self.baseline_start, self.onset - self.row_step)
        if len(before) < MIN_BASELINE_ROWS:  # a sparse column: take the last rows, however old
            end = int(np.searchsorted(series.step, self.onset))
            rows = slice(max(0, end - SPARSE_BASELINE_ROWS), end)
            before = Series(series.name, series.step[rows], series.value[rows])
        keep = np.isfinite(before.value)
        before = Series(series.name, before.step[keep], before.value[keep])
        return before if len(before) >= MIN_BASELINE_ROWS else None

    def level(self, name: str) -> float | None:
        """The median of the baseline, in the column's own unit; None where it has no baseline."""
        before = self.baseline(name)
        return None if before is None else float(stats.median(before.value))

    def departure(self, name: str, span: tuple[int, int] | None = None, sign: int = 0) -> Departure | None:
        """The largest departure of `name` in `span` (default: `span_of` it); with `sign` ±1, upward or downward only.

        The loss of one rank is measured beside those of the others: they fall and waver together. A non-finite value is
        an infinite departure. None where the column or its baseline is missing.
        """
        series = self.series(name)
        others = [s for n in self.family(RANK_LOSS) if n != name and (s := self.series(n)) is not None]
        beside = series is not None and name.startswith(RANK_LOSS) and len(others) > 0
        measured = beside_others(series, others) if series is not None and beside else series
        before = None if measured is None else self._rows_before(measured)
        inside = None if measured is None else measured.window(*(span or self.span_of(name)))
        if series is None or before is None or inside is None or not len(inside):
            return None
        d = measure_departure(before, inside, sign)
        value, own = series.at(d.step), self._rows_before(series)
        if not beside or value is None or own is None:
            return d
        usual = d.baseline * float(stats.median([v for other in others if (v := other.at(d.step)) is not None]))
        return replace(d, value=value, baseline=usual, lowest=float(own.value.min()), highest=float(own.value.max()))

    @cached_property
    def timeline(self) -> Timeline:
        """The journal's events with their attempts."""
        return Timeline(self.run.journal, self.run.segments)

    @cached_property
    def resume(self) -> int | None:
        """The first step of an attempt that began at the onset or up to RESUME_ROWS rows before it, or None."""
        starts = [s.first_step for s in self.run.segments if 0 < s.attempt <= self.incident.attempt]
        starts += [] if self.resume_event is None else [self.resume_event.step or 0]
        near = [s for s in starts if 0 <= self.onset - s <= RESUME_ROWS * self.row_step]
        return max(near, default=None)

    @cached_property
    def resume_event(self) -> TimelineEvent | None:
        """The journal's last resume at the onset or up to RESUME_ROWS rows before it, in the incident's own history."""
        resumes = self.timeline.before(self.incident, RESUME_ROWS * self.row_step, "resume")
        return resumes[-1] if resumes else None

    @cached_property
    def lost_at_resume(self) -> tuple[str, ...] | None:
        """The pieces of the state that this resume did not restore; () where it restored all, None where the journal
        does not say."""
        return None if self.resume_event is None else not_restored(self.resume_event.event)

    @cached_property
    def pieces_lost(self) -> frozenset[str]:
        """What these pieces are, as `event_meaning.piece_kind` names them."""
        return frozenset(map(piece_kind, self.lost_at_resume or ())) - {""}

    @cached_property
    def begun_anew(self) -> bool:
        """Whether the attempt that repeated the steps of a rolled-back incident began with the first step of the log,
        and no journal calls that a rollback: then the training was started again, and nothing was undone."""
        redone = self.timeline.redone_in(self.incident)
        segments = {segment.attempt: segment.first_step for segment in self.run.segments}
        journaled = any(True for _ in self.timeline.of("rollback", "resume"))
        return redone is not None and not journaled and segments[redone] <= min(segments.values())

    @property
    def last_step_after(self) -> int:
        """The last step at which what was done about the incident, and its effect, is looked for."""
        return (self.incident.recovery_step or self.incident.peak_step) + AFTER_ROWS * self.row_step

    @cached_property
    def response(self) -> Response:
        """What was done about the incident, by the journal."""
        return response(self.timeline, self.incident, self.last_step_after)

    @property
    def last_sound_step(self) -> int:
        """The last step whose state, before its update, shows no damage yet."""
        return self.incident.last_sound_step(self.incident.findings[0].column)

    @cached_property
    def _earlier_checkpoints(self) -> tuple[Checkpoint, ...]:
        """Complete checkpoints whose state is from before the onset, newest first."""
        earlier = (c for c in self.run.checkpoints if c.complete and c.step <= self.last_sound_step)
        return tuple(sorted(earlier, key=lambda c: (c.step, not c.parameters_only), reverse=True))

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint from before the onset that is known to be finite and resets no optimizer, or None."""
        if not self._earlier_checkpoints:
            return None
        from postmortem.checkpoint.health import health_in

        health = health_in(self.run)
        return next((c for c in self._earlier_checkpoints if health.of(c).healthy), None)

    @property
    def passed_over(self) -> tuple[tuple[Checkpoint, Health], ...]:
        """The checkpoints after `checkpoint` and before the onset, newest first, and what is known of each."""
        if not self._earlier_checkpoints:
            return ()
        from postmortem.checkpoint.health import health_in

        health, chosen, newer = health_in(self.run), self.checkpoint, self._earlier_checkpoints
        return tuple((c, health.of(c)) for c in (newer[: newer.index(chosen)] if chosen else newer))

    @cached_property
    def damaged_between(self) -> tuple[int, int] | None:
        """(step of the newest finite checkpoint, step of the first one after it that is not finite), both from before
        the onset: in between, an update wrote what no batch read until the onset. None where the incident is finite, or
        the checkpoints do not show that."""
        if all(np.isfinite(finding.peak) for finding in self.incident.findings):
            return None
        bad = [c.step for c, health in self.passed_over if health.state == "not finite"]
        return (self.checkpoint.step, min(bad)) if bad and self.checkpoint is not None else None

    def batch_window(self, rows: int | None = None) -> tuple[int, int]:
        """Absolute batch indices [first, last) used from the onset through the peak, or in `rows` rows from the onset.

        The loss at step t precedes update t, so the batch of the onset, and not only that of the peak, is in the
        window. Where no batch_index is logged, one batch per step is assumed.
        """
        reach = self.incident.peak_step - self.onset
        last = self.onset + (reach if rows is None else (rows - 1) * self.row_step)
        if rows is None and reach > FAR_PEAK_ROWS * self.row_step:
            last = self.onset
        # Between sparse rows, any batch since the last normal row may be the cause.
        first = self.incident.onset_interval[0] if self.incident.onset_interval else self.onset - 1
        if self.damaged_between is not None:  # the onset is only where the damage was read
            first, last = self.damaged_between[0] - 1, self.damaged_between[1] - 1
        index = self.series("batch_index")
        before, used = (index.at(first), index.at(last)) if index is not None else (None, None)
        if before is None or used is None or not np.isfinite([before, used]).all():
            return first + 1, last + 1
        return int(before) + 1, int(used) + 1

    def loss_moved(self) -> bool:
        """Whether a finding of the incident is on the loss itself."""
        return any(f.column == "loss" for f in self.incident.findings)

    def loss_departed(self) -> bool:
        """Whether the loss left its baseline at all, also downward, or too briefly for a finding."""
        departure = self.departure("loss")
        return self.loss_moved() or (departure is not None and departure.moved)
