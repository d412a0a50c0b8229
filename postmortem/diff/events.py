"""What happened to each run: incidents, stretches that were done again, and what they took."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from postmortem.change import Window
from postmortem.detectors import DetectedIncident
from postmortem.diff.level import thinned
from postmortem.diff.model import DiffIncident, Discarded, LostWork
from postmortem.incident import facts
from postmortem.run import Run

SAME_ONSET_ROWS = 10  # two runs that differ in their last bits see the onset of one incident some rows apart


def found(incidents: Sequence[DetectedIncident]) -> tuple[DiffIncident, ...]:
    """Incidents as they are told here, in order of their onset."""
    made = [DiffIncident(**facts(one), on_loss=any(f.column == "loss" for f in one.findings)) for one in incidents]
    return tuple(sorted(made, key=lambda one: (one.onset_step, one.kind, one.attempt)))


def shared(ours: Sequence[DiffIncident], theirs: Sequence[DiffIncident], row_step: int) -> tuple[DiffIncident, ...]:
    """`ours`, those marked that the other run has, too: the same kind at the same place, discarded in both or none."""

    def same(x: DiffIncident, y: DiffIncident) -> bool:
        near = abs(x.onset_step - y.onset_step) <= SAME_ONSET_ROWS * row_step
        return (x.kind, x.discarded) == (y.kind, y.discarded) and near

    return tuple(dataclasses.replace(one, shared=any(same(one, other) for other in theirs)) for one in ours)


def discarded(run: Run) -> tuple[Discarded, ...]:
    """Every stretch of steps that a later attempt did again."""
    out: list[Discarded] = []
    for segment in (s for s in run.segments if s.discarded):
        first = max(segment.kept_until, segment.first_step)
        steps = run.steps(attempt=segment.attempt)
        rows = int(steps.size - np.searchsorted(steps, first))
        loss = run.series("loss", attempt=segment.attempt)
        loss = None if loss is None else loss.window(first, segment.last_step + 1)
        peak = peak_step = trace = None
        if loss is not None and len(loss):
            trace = thinned(f"attempt {segment.attempt}", loss.step, loss.value)
            finite = np.isfinite(loss.value)
            if finite.any():
                at = int(np.argmax(np.where(finite, loss.value, -np.inf)))
                peak, peak_step = float(loss.value[at]), int(loss.step[at])
        out.append(Discarded(segment.attempt, first, segment.last_step, rows, peak, peak_step, trace))
    return tuple(out)


def lost(run: Run, stretches: Sequence[Discarded], skipped: Sequence[Window]) -> LostWork:
    """Steps done in vain, their tokens and device-hours, and the batches that were gone past.

    A stretch counts every step from its first to its last, also where only every tenth was logged.
    """
    steps = sum(s.last_step - s.first_step + 1 for s in stretches)
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
    """Tokens of one step over all ranks, as run.json says or as the rows show; None where neither does."""
    if run.manifest.tokens_per_step is not None:
        return run.manifest.tokens_per_step
    series = run.series("tokens")
    return None if series is None else float(np.median(series.value)) * len(run.ranks)


def seconds_per_step(run: Run) -> float | None:
    """Median wall time of one step, as logged, or from the times of its rows; None where neither was logged."""
    logged = run.series("step_time_s")
    if logged is not None and np.isfinite(logged.value).any():
        return float(np.nanmedian(logged.value))
    written = run.series("time")
    if written is None or len(written) < 2:
        return None
    each = np.diff(written.value) / np.diff(written.step)
    return max(0.0, float(np.median(each))) if np.isfinite(each).all() else None
