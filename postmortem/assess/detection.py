"""Finds the incidents of a run: of its effective history, and of every stretch that was rolled back."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Literal, TypeAlias
from weakref import WeakKeyDictionary

from postmortem.detectors import DetectedIncident, LabelArrays, Telemetry, detectors, find_incidents
from postmortem.run import Run
from postmortem.series import Series

Mode: TypeAlias = Literal["all", "watchdog"]

REWIND_ROWS = 3000  # rows before a discarded stretch that detectors get: enough for the baseline of each

_DETECTED: WeakKeyDictionary[Run, dict[Hashable, tuple[DetectedIncident, ...]]] = WeakKeyDictionary()


def detect(run: Run, mode: Mode = "all") -> tuple[DetectedIncident, ...]:
    """Incidents of the effective history and of every stretch that was rolled back, worst first.

    A rolled-back stretch contains the spike that caused the rollback: its rows are judged against the history before
    them. A `Run` does not change after it was read, so that each is searched once.
    """
    detected = _DETECTED.setdefault(run, {})
    key = (mode, detectors())
    if key not in detected:
        detected[key] = _search(run, mode)
    return detected[key]


def _search(run: Run, mode: Mode) -> tuple[DetectedIncident, ...]:
    restarts = tuple(s.first_step for s in run.segments if s.attempt > 0)
    saved = tuple(c.step for c in run.checkpoints if c.complete)
    incidents = [
        dataclasses.replace(incident, attempt=_attempt(run, incident.onset_step))
        for incident in find_incidents(_telemetry(run, None, restarts), mode=mode, checkpoints=saved)
    ]
    for segment in (s for s in run.segments if s.discarded):
        t = _telemetry(
            run, segment.attempt, tuple(r for r in restarts if r < segment.kept_until), since=segment.kept_until
        )
        incidents += [
            dataclasses.replace(incident, attempt=segment.attempt, discarded=True)
            for incident in find_incidents(t, mode=mode, checkpoints=saved)
            if incident.peak_step >= max(segment.kept_until, segment.first_step)
        ]
    return tuple(sorted(incidents, key=lambda incident: (-incident.severity, incident.onset_step, incident.attempt)))


def _attempt(run: Run, step: int) -> int:
    """The attempt whose row of `step` belongs to the effective history."""
    return max((s.attempt for s in run.segments if s.first_step <= step), default=0)


def _telemetry(run: Run, attempt: int | None, restarts: tuple[int, ...], since: int | None = None) -> Telemetry:
    first = None if since is None else int(run.row_steps[max(0, int(run.row_steps.searchsorted(since)) - REWIND_ROWS)])

    def series(name: str) -> Series | None:
        whole = run.series(name, attempt=attempt)
        return whole if whole is None or first is None else whole.window(first, 2**62)

    def labels(name: str) -> LabelArrays | None:
        whole = run.labels(name, attempt=attempt)
        return None if whole is None else (whole.step, whole.value)

    rows = run.steps(attempt=attempt)
    return Telemetry(series, run.columns, rows if first is None else rows[rows >= first], labels, restarts)
