"""NaN and Inf in any panel: never a matter of thresholds, always an event."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from postmortem.detectors._model import DIVERGED, RECOVERED, Detector, Finding, Telemetry, onset_interval
from postmortem.series import Series

EPISODE_ROWS = 50
"""Non-finite rows this close together are one episode."""

_NOT_MEASURED = ("time", "tokens_per_s", "step_time_s")


def _find(t: Telemetry) -> Iterator[Finding]:
    loss = t.series("loss")
    for name in t.names:
        series = None if name in _NOT_MEASURED else t.series(name)
        if series is None or np.isfinite(series.value).all():
            continue
        yield from _episodes(series, loss)


def _episodes(series: Series, loss: Series | None) -> Iterator[Finding]:
    bad = np.flatnonzero(~np.isfinite(series.value))
    starts = np.flatnonzero(np.diff(bad, prepend=-EPISODE_ROWS - 1) > EPISODE_ROWS)
    ends = np.append(starts[1:], bad.size)
    for a, b in zip(starts.tolist(), ends.tolist(), strict=True):
        yield _episode(series, bad[a:b], loss)


def _episode(series: Series, bad: np.ndarray[tuple[int], np.dtype[np.intp]], loss: Series | None) -> Finding:
    first, last = int(bad[0]), int(bad[-1])
    back = last + 1 if last + 1 < len(series) else None
    past = series.value[max(first - 50, 0) : first]
    past = past[np.isfinite(past)]
    onset = int(series.step[first])
    lesser = series.name != "loss" and loss is not None and back is not None and _finite_around(loss, series, first, last)
    return Finding(
        detector="non_finite",
        kind="non_finite_gradient" if lesser and series.name.startswith("grad_norm") else "non_finite",
        column=series.name,
        onset_step=onset,
        onset_interval=onset_interval(series.step, first),
        peak_step=onset,
        recovery_step=None if back is None else int(series.step[back]),
        peak=float(series.value[first]),
        baseline=float(np.median(past)) if past.size else float("nan"),
        scale=float("nan"),
        score=float("inf"),
        settled=None if back is None else float(np.median(series.value[back : back + 20][np.isfinite(series.value[back : back + 20])])),
        outcome=DIVERGED if back is None else RECOVERED,
        figures={"rows": float(bad.size), "from_first_row": float(first == 0)},
    )


def _finite_around(loss: Series, series: Series, first: int, last: int) -> bool:
    around = loss.window(int(series.step[first]), int(series.step[last]) + 2)
    return bool(np.isfinite(around.value).all())


DETECTOR = Detector("non_finite", ("non_finite", "non_finite_gradient"), _find)
