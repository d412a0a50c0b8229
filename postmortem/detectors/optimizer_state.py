"""Optimizer state that was lost: Adam's moments fall faster than they can decay, or its step count falls back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from postmortem.detectors._model import LINGERING, RECOVERED, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._screen import ScreenedColumn, signal
from postmortem.detectors._steps import changes
from postmortem.incident import Kind
from postmortem.series import Series

FALL_LOG, TIMES = float(np.log(2)), 6.0
"""A moment norm halves within one logged row, and falls 6 times further than it usually moves. (A second moment with
beta2 = 0.95 loses 5 % a step at most; a first moment with beta1 = 0.9 10 %.)"""


def _find(t: Telemetry) -> Iterator[Finding]:
    for name in ("adam_m_norm", "adam_v_norm"):
        series = t.series(name)
        s = signal(series) if series is not None else None
        if s is not None and s.log:
            yield from _falls(s)
    count = t.series("optimizer_step")
    if count is not None:
        yield from _count_falls(count)


def _falls(s: ScreenedColumn) -> Iterator[Finding]:
    c = changes(s.y, s.step)
    last = -50
    for row in np.flatnonzero((-c.change >= FALL_LOG) & (-c.change >= TIMES * c.usual)).tolist():
        if row - last < 50:
            continue
        last = row
        base = float(s.y[row - 1])
        back = np.flatnonzero(s.y[row : row + 1000] >= base - 0.2)
        settled = float(np.median(s.raw[row + 50 : row + 100])) if s.raw.size > row + 60 else None
        yield Finding(
            detector="optimizer_state",
            kind="optimizer_state_discontinuity",
            column=s.name,
            onset_step=int(s.step[row]),
            onset_interval=onset_interval(s.step, row),
            peak_step=int(s.step[row]),
            recovery_step=int(s.step[row + int(back[0])]) if back.size else None,
            peak=float(s.raw[row]),
            baseline=float(s.raw[row - 1]),
            scale=float(c.usual[row]) * float(s.raw[row - 1]),
            score=float(-c.change[row] / max(float(c.usual[row]), 1e-3)),
            settled=settled,
            outcome=RECOVERED if back.size else LINGERING,
            figures={"ratio": float(np.exp(c.change[row])), "height": float(-c.change[row])},
        )


def _count_falls(count: Series) -> Iterator[Finding]:
    for row in (np.flatnonzero(np.diff(count.value) < 0) + 1).tolist():
        before, now = float(count.value[row - 1]), float(count.value[row])
        yield Finding(
            detector="optimizer_state",
            kind="optimizer_state_discontinuity",
            column=count.name,
            onset_step=int(count.step[row]),
            onset_interval=onset_interval(count.step, row),
            peak_step=int(count.step[row]),
            recovery_step=None,
            peak=now,
            baseline=before,
            scale=1.0,
            score=before - now,
            settled=None,
            outcome=LINGERING,
            figures={"height": 1.0, "fall": before - now},
        )


KIND = Kind("optimizer_state_discontinuity", "optimizer-state discontinuity", "cause")

DETECTOR = Detector(
    "optimizer_state",
    (KIND,),
    _find,
    no_stream="Norms of optimizer state are sampled, and it is lost by a resume, after which a live loop is new.",
)
