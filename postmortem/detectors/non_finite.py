"""NaN and Inf in any panel: never a matter of thresholds, always an event.

A gradient that is non-finite while the loss stays finite and that comes back is a skipped step, a lesser thing of its
own kind; where a loss scaler is logged and accounts for every such step it opens no incident.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import DIVERGED, RECOVERED, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._steps import runs
from postmortem.incident import Kind
from postmortem.series import Series

EPISODE_ROWS = 50
"""Non-finite rows this close together are one episode."""

_NOT_MEASURED = ("time", "tokens_per_s", "step_time_s")
_GRADIENT = ("grad_norm", "grad_norm_clipped", "g2_over_v", "update_rms")
_SKIP_ROWS = 2


def _find(t: Telemetry) -> Iterator[Finding]:
    loss = t.series("loss")
    for name in t.names:
        series = None if name in _NOT_MEASURED else t.series(name)
        if series is None or np.isfinite(series.value).all():
            continue
        bad = np.flatnonzero(~np.isfinite(series.value))
        for rows in runs(bad, EPISODE_ROWS):
            yield _episode(t, series, rows, loss)


def _episode(t: Telemetry, series: Series, bad: NDArray[np.intp], loss: Series | None) -> Finding:
    first, last = int(bad[0]), int(bad[-1])
    back = last + 1 if last + 1 < len(series) else None
    before, after = series.value[max(first - 50, 0) : first], series.value[last + 1 : last + 21]
    before, after = before[np.isfinite(before)], after[np.isfinite(after)]
    onset = int(series.step[first])
    skipped = back is not None and series.name.split("/")[0] in _GRADIENT and _loss_finite(loss, series, first, last)
    return Finding(
        detector="non_finite",
        kind="non_finite_gradient" if skipped else "non_finite",
        column=series.name,
        onset_step=onset,
        onset_interval=onset_interval(series.step, first),
        peak_step=onset,
        recovery_step=None if back is None else int(series.step[back]),
        peak=float(series.value[first]),
        baseline=float(np.median(before)) if before.size else float("nan"),
        scale=float("nan"),
        score=float("inf"),
        settled=float(np.median(after)) if after.size else None,
        outcome=DIVERGED if back is None else RECOVERED,
        figures={"rows": float(bad.size), "first_row": float(first == 0)},
        opens=not (skipped and _scaler_at_work(t, series.step[bad])),
    )


def _loss_finite(loss: Series | None, series: Series, first: int, last: int) -> bool:
    around = None if loss is None else loss.window(int(series.step[first]), int(series.step[last]) + _SKIP_ROWS)
    return around is not None and len(around) > 0 and bool(np.isfinite(around.value).all())


def _scaler_at_work(t: Telemetry, steps: NDArray[np.int64]) -> bool:
    """Every one of these steps was skipped, or followed by a fall of the loss scale: dynamic loss scaling probing its
    limit, as it should. (Falls that bunch are the loss-scale detector's business.)"""
    skipped, scale = t.series("skipped"), t.series("loss_scale")
    if skipped is not None and all(skipped.at(int(step)) for step in steps):
        return True
    if scale is None:
        return False
    fell = scale.step[1:][np.diff(scale.value) < 0]
    return all(bool(((fell >= step) & (fell <= step + _SKIP_ROWS)).any()) for step in steps)


KINDS = (
    Kind("non_finite", "non-finite loss", "fatal", "loss"),
    Kind("non_finite_gradient", "non-finite gradient", "minor"),
)

DETECTOR = Detector("non_finite", KINDS, _find)
