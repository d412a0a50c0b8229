"""A batch without a single valid label: its mean loss is 0/0."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from postmortem.detectors._model import RECOVERED, UNRESOLVED, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._steps import runs
from postmortem.incident import Kind
from postmortem.stats import median

_APART_ROWS = 8
"""Batches without labels this close together are one event."""

KIND = Kind("empty_batch_labels", "batch without labels", "cause", "nothing")


def _detect(t: Telemetry) -> Iterator[Finding]:
    series = t.series("valid_labels")
    if series is None or not (series.value > 0).any():
        return
    usual = float(median(series.value[series.value > 0]))
    for run in runs(np.flatnonzero(series.value <= 0), _APART_ROWS):
        first, after = int(run[0]), int(run[-1]) + 1
        back = after < len(series)
        yield Finding(
            detector="empty_labels",
            kind="empty_batch_labels",
            column=series.name,
            onset_step=int(series.step[first]),
            onset_interval=onset_interval(series.step, first),
            peak_step=int(series.step[first]),
            recovery_step=int(series.step[after]) if back else None,
            peak=float(series.value[first]),
            baseline=usual,
            scale=0.0,
            score=float("inf"),
            settled=None,
            outcome=RECOVERED if back else UNRESOLVED,
            figures={"batches": float(run.size)},
        )


DETECTOR = Detector(
    "empty_labels",
    (KIND,),
    _detect,
    no_stream="The loss of such a batch is not finite, which `non_finite` reports on the same row.",
)
