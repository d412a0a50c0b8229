"""Collects what happened to each run: incidents, rolled-back stretches of steps, and the work that they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from postmortem.change import Window
from postmortem.detectors import DetectedIncident
from postmortem.diff.level import thinned
from postmortem.diff.lineage import inherited_attempts
from postmortem.diff.model import DiffIncident, Discarded, LostWork
from postmortem.incident import facts
from postmortem.run import Run, Segment

SAME_ONSET_ROWS = 10  # in two runs that differ in their last bits, the onset of one incident can be some rows apart


def diff_incidents(detected: Sequence[DetectedIncident]) -> tuple[DiffIncident, ...]:
    """The detected incidents as records of a diff, in order of their onset."""
    incidents = [DiffIncident(**facts(i), on_loss=any(f.column == "loss" for f in i.findings)) for i in detected]
    return tuple(sorted(incidents, key=lambda i: (i.onset_step, i.kind, i.attempt)))


def mark_shared(
    incidents: Sequence[DiffIncident], sibling: Sequence[DiffIncident], row_step: int
) -> tuple[DiffIncident, ...]:
    """`incidents` of a run, with those marked that the `sibling` run has as well: the same kind at the same place,
    rolled back in both runs or in neither."""

    def same(x: DiffIncident, y: DiffIncident) -> bool:
        near = abs(x.onset_step - y.onset_step) <= SAME_ONSET_ROWS * row_step
        return (x.kind, x.discarded) == (y.kind, y.discarded) and near

    return tuple(dataclasses.replace(i, shared=any(same(i, match) for match in sibling)) for i in incidents)


def discarded_stretches(run: Run) -> tuple[Discarded, ...]:
    """Every stretch of steps that a later attempt trained again. A replay did not train the rows that it replaces of
    its parent: these are no stretch of it, but what the parent itself had trained again is."""
    stretches: list[Discarded] = []
    for segment in (s for s in run.segments if s.discarded):
        kept_until = _kept_until(run, segment)
        if kept_until > segment.last_step:
            continue
        first = max(kept_until, segment.first_step)
        steps = run.steps(attempt=segment.attempt)
        rows = int(steps.size - np.searchsorted(steps, first))
        loss = run.series("loss", attempt=segment.attempt)
        loss = None if loss is None else loss.window(first, segment.last_step + 1)
        peak = peak_step = trace = None
        if loss is not None and len(loss):
            trace = thinned(f"attempt {segment.attempt}", loss.step, loss.value)
            finite = np.isfinite(loss.value)
            if finite.any():
                row = int(np.argmax(np.where(finite, loss.value, -np.inf)))
                peak, peak_step = float(loss.value[row]), int(loss.step[row])
        stretches.append(Discarded(segment.attempt, first, segment.last_step, rows, peak, peak_step, trace))
    return tuple(stretches)


def of_the_run(detected: Sequence[DetectedIncident], stretches: Sequence[Discarded]) -> list[DetectedIncident]:
    """The incidents without those in rows that a replay only took over from its parent and replaced."""
    return [
        i
        for i in detected
        if not i.discarded or any(s.attempt == i.attempt and i.peak_step >= s.first_step for s in stretches)
    ]


def _kept_until(run: Run, segment: Segment) -> int:
    """The step from which on the rows of a segment were trained again, by the run or, for a segment that a replay took
    over from its parent, by the parent."""
    inherited = inherited_attempts(run)
    if segment.attempt >= inherited:
        return segment.kept_until
    return min((s.first_step for s in run.segments if segment.attempt < s.attempt < inherited), default=2**62)


def lost_work(run: Run, stretches: Sequence[Discarded], skipped: Sequence[Window]) -> LostWork:
    """Wasted steps with their tokens and device-hours, and the skipped batches.

    A stretch counts every step from its first to its last, also where only every tenth step was logged. What the parent
    of a replay trained is no work of the replay.
    """
    own = [s for s in stretches if s.attempt >= inherited_attempts(run)]
    steps = sum(s.last_step - s.first_step + 1 for s in own)
    batches = sum(last - first for first, last in skipped)
    tokens = tokens_per_step(run)
    seconds = seconds_per_step(run)
    devices = run.manifest.world_size or len(run.ranks)
    return LostWork(
        steps=steps,
        tokens=None if tokens is None else round(steps * tokens),
        device_hours=None if seconds is None else steps * seconds * devices / 3600,
        skipped_batches=batches,
        skipped_tokens=None if tokens is None else round(batches * tokens),
    )


def tokens_per_step(run: Run) -> float | None:
    """Tokens of one step over all ranks, from run.json or from the rows; None where neither has them."""
    if run.manifest.tokens_per_step is not None:
        return run.manifest.tokens_per_step
    series = run.series("tokens")
    return None if series is None else float(np.median(series.value)) * len(run.ranks)


def seconds_per_step(run: Run) -> float | None:
    """Median wall time of one step, as logged or from the times of the rows; None where neither was logged."""
    step_time = run.series("step_time_s")
    if step_time is not None and np.isfinite(step_time.value).any():
        return float(np.nanmedian(step_time.value))
    clock = run.series("time")
    if clock is None or len(clock) < 2:
        return None
    per_step = np.diff(clock.value) / np.diff(clock.step)
    return max(0.0, float(np.median(per_step))) if np.isfinite(per_step).all() else None
