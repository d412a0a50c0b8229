"""Finds the incidents of a run: of its effective history, and of every stretch that was rolled back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator
from weakref import WeakKeyDictionary

import numpy as np

from postmortem.detectors import (
    Closest,
    DetectedIncident,
    LabelArrays,
    Mode,
    Telemetry,
    Watchdog,
    detectors,
    find_incidents,
    watchdog_of,
)
from postmortem.run import Run
from postmortem.run.model import Segment
from postmortem.series import Series

REWIND_ROWS = 3000  # rows before a discarded stretch that detectors get: enough for the baseline of each

_DETECTED: WeakKeyDictionary[Run, dict[Hashable, tuple[DetectedIncident, ...]]] = WeakKeyDictionary()


def detect(run: Run, mode: Mode = "all") -> tuple[DetectedIncident, ...]:
    """Incidents of the effective history and of every stretch that was rolled back, worst first.

    A rolled-back stretch contains the spike that caused the rollback: its rows are judged against the history before
    them. A `Run` does not change after it was read, so that each is searched once.
    """
    incidents = (*detect_effective(run, mode), *_cached(run, ("discarded", mode), lambda: _search_discarded(run, mode)))
    return tuple(sorted(incidents, key=lambda incident: (-incident.severity, incident.onset_step, incident.attempt)))


def detect_effective(run: Run, mode: Mode = "all") -> tuple[DetectedIncident, ...]:
    """Incidents of the effective history only. The rest of a replay is the run that it replays: often most of it."""
    return _cached(run, ("effective", mode), lambda: _search(run, mode))


def _cached(
    run: Run, what: tuple[str, Mode], search: Callable[[], list[DetectedIncident]]
) -> tuple[DetectedIncident, ...]:
    detected = _DETECTED.setdefault(run, {})
    key = (*what, detectors())
    if key not in detected:
        detected[key] = tuple(search())
    return detected[key]


def closest_to_incident(run: Run, watchdog: Watchdog) -> Closest | None:
    """How close the loss of `run` comes to an incident of `watchdog`, rolled-back stretches included; None where there
    is no loss."""
    telemetry = [_telemetry(run, None, _restarts(run)), *(t for _, t in _discarded(run))]
    with np.errstate(all="ignore"):  # a log may contain any float
        approaches = [closest for t in telemetry if (closest := watchdog.closest(t)) is not None]
    return max(approaches, key=lambda closest: (closest.longest, closest.judged > 0, closest.ratio), default=None)


def _search(run: Run, mode: Mode) -> list[DetectedIncident]:
    telemetry = _telemetry(run, None, _restarts(run))
    return [
        dataclasses.replace(incident, attempt=_attempt(run, incident.onset_step))
        for incident in find_incidents(telemetry, mode=_of_run(mode, run))
    ]


def _search_discarded(run: Run, mode: Mode) -> list[DetectedIncident]:
    incidents: list[DetectedIncident] = []
    for segment, telemetry in _discarded(run):
        incidents += [
            dataclasses.replace(incident, attempt=segment.attempt, discarded=True)
            for incident in find_incidents(telemetry, mode=_of_run(mode, run))
            if incident.peak_step >= max(segment.kept_until, segment.first_step)
        ]
    return incidents


def _discarded(run: Run) -> Iterator[tuple[Segment, Telemetry]]:
    """Every stretch that was rolled back, with its rows and the history before them."""
    for segment in (s for s in run.segments if s.discarded):
        restarts = tuple(r for r in _restarts(run) if r < segment.kept_until)
        yield segment, _telemetry(run, segment.attempt, restarts, since=segment.kept_until)


def _of_run(mode: Mode, run: Run) -> Mode:
    """`mode`, with the steps that `run` can roll back to."""
    watchdog = watchdog_of(mode)
    return "all" if watchdog is None else dataclasses.replace(watchdog, checkpoints=_saved_steps(run))


def _restarts(run: Run) -> tuple[int, ...]:
    return tuple(s.first_step for s in run.segments if s.attempt > 0)


def _saved_steps(run: Run) -> tuple[int, ...]:
    return tuple(c.step for c in run.checkpoints if c.complete)


def _attempt(run: Run, step: int) -> int:
    """The attempt whose row of `step` belongs to the effective history."""
    return max((s.attempt for s in run.segments if s.first_step <= step), default=0)


def _telemetry(run: Run, attempt: int | None, restarts: tuple[int, ...], since: int | None = None) -> Telemetry:
    first = None if since is None else int(run.row_steps[max(0, int(run.row_steps.searchsorted(since)) - REWIND_ROWS)])

    def series(name: str) -> Series | None:
        whole = run.series(name, attempt=attempt)
        return whole if whole is None or first is None else whole.window(first, 2**62)

    epoch = run.epoch(attempt=attempt)
    if epoch is not None and first is not None:
        epoch = epoch.window(first, 2**62)

    def labels(name: str) -> LabelArrays | None:
        whole = run.labels(name, attempt=attempt)
        return None if whole is None else (whole.step, whole.value)

    rows = run.steps(attempt=attempt)
    ranks = run.ranks if len(run.ranks) > 1 else ()
    judged = rows if first is None else rows[rows >= first]
    return Telemetry(series, run.columns, judged, labels, restarts, ranks, run.smoothed, epoch)
