"""A parameter norm that moves further in one row than its updates usually move it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from postmortem.detectors._model import Detector, Finding, Telemetry
from postmortem.detectors._screen import ScreenedColumn, screened_column
from postmortem.detectors._steps import RETURN_ROWS, changes, first_jumps, jump_finding
from postmortem.incident import Kind

TIMES, FLOOR = 20.0, 1e-3
"""A jump is 20 times what 9 of 10 recent updates did, and a thousandth of the norm (log units) or more."""

_BACK_SHARE = 0.2
"""The norm is back where at most a fifth of the jump is left."""

KIND = Kind("param_norm_jump", "parameter-norm jump", "cause")


def _detect(t: Telemetry) -> Iterator[Finding]:
    for name in t.names:
        if name != "param_norm" and not name.startswith("param_norm/"):
            continue
        s = screened_column(t.series(name))
        if s is not None and s.log:
            yield from _jumps(s)


def _jumps(s: ScreenedColumn) -> Iterator[Finding]:
    c = changes(s.y, s.step)
    size = np.abs(c.change)
    for row in first_jumps((size >= FLOOR) & (size >= TIMES * c.usual)):
        usual = max(float(c.usual[row]), FLOOR / TIMES)
        away = np.abs(s.y[row : row + RETURN_ROWS] - float(s.y[row - 1]))
        yield jump_finding(
            s,
            row,
            float(c.change[row]),
            detector="param_norm",
            kind=KIND.slug,
            usual=usual,
            score=float(size[row]) / usual,
            is_back=away <= _BACK_SHARE * size[row],
        )


DETECTOR = Detector(
    "param_norm", (KIND,), _detect, no_stream="Norms of parameters are sampled, not logged at each step."
)
