"""A loss scale that falls several times close together: fp16 overflows that do not stop.

One halving now and then is how dynamic loss scaling probes its limit, and the descent from the initial scale is how it
finds it; neither is an incident.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from postmortem.detectors._model import LINGERING, RECOVERED, UNRESOLVED, Detector, Finding, Telemetry, onset_interval
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


KIND = Kind("loss_scale_drop", "loss-scale drop", "cause")

DETECTOR = Detector("loss_scale", (KIND,), _find)
