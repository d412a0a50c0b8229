"""Optimizer state that was lost: Adam's moments fall faster than they can decay, or its step count falls back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from postmortem.detectors._model import LINGERING, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._screen import ScreenedColumn, screened_column
from postmortem.detectors._steps import RETURN_ROWS, changes, first_jumps, jump_finding
from postmortem.incident import Kind
from postmortem.series import Series
from postmortem.stats import median

FALL_LOG, TIMES = float(np.log(2)), 6.0
"""A moment norm halves within one logged row, and falls 6 times further than it usually moves. (A second moment with
beta2 = 0.95 loses at most 5 % per step, a first moment with beta1 = 0.9 at most 10 %.)"""

_MIN_USUAL_LOG = 1e-3
"""The least usual change, in log units, that a score is measured in: a norm that never moved has none."""

_BACK_LOG = 0.2
"""A norm is back, in log units, where it is within 20 % of its level before the fall."""

KIND = Kind("optimizer_state_discontinuity", "optimizer-state discontinuity", "cause")


def _detect(t: Telemetry) -> Iterator[Finding]:
    for name in ("adam_m_norm", "adam_v_norm"):
        s = screened_column(t.series(name))
        if s is not None and s.log:
            yield from _norm_falls(s)
    count = t.series("optimizer_step")
    if count is not None:
        yield from _count_falls(count)


def _norm_falls(s: ScreenedColumn) -> Iterator[Finding]:
    c = changes(s.y, s.step)
    for row in first_jumps((-c.change >= FALL_LOG) & (-c.change >= TIMES * c.usual)):
        change, usual = float(c.change[row]), float(c.usual[row])
        yield jump_finding(
            s,
            row,
            change,
            detector="optimizer_state",
            kind=KIND.slug,
            usual=usual,
            score=-change / max(usual, _MIN_USUAL_LOG),
            is_back=s.y[row : row + RETURN_ROWS] >= float(s.y[row - 1]) - _BACK_LOG,
            settled=float(median(s.raw[row + 50 : row + 100])) if s.raw.size > row + 60 else None,
        )


def _count_falls(count: Series) -> Iterator[Finding]:
    for row in (np.flatnonzero(np.diff(count.value) < 0) + 1).tolist():
        before, after = float(count.value[row - 1]), float(count.value[row])
        yield Finding(
            detector="optimizer_state",
            kind=KIND.slug,
            column=count.name,
            onset_step=int(count.step[row]),
            onset_interval=onset_interval(count.step, row),
            peak_step=int(count.step[row]),
            recovery_step=None,
            peak=after,
            baseline=before,
            scale=1.0,
            score=before - after,
            settled=None,
            outcome=LINGERING,
            figures={"height": 1.0, "fall": before - after},
        )


DETECTOR = Detector(
    "optimizer_state",
    (KIND,),
    _detect,
    no_stream="Norms of optimizer state are sampled, and the state is lost at a resume, where a live loop is new.",
)
