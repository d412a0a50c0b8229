"""A parameter norm that moves further in one row than updates move it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from postmortem.detectors._model import LINGERING, RECOVERED, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._screen import ScreenedColumn, signal
from postmortem.detectors._steps import changes
from postmortem.incident import Kind

TIMES, FLOOR = 20.0, 1e-3
"""A jump is 20 times what 9 of 10 recent updates did, and a thousandth of the norm or more."""


def _find(t: Telemetry) -> Iterator[Finding]:
    for name in t.names:
        if name != "param_norm" and not name.startswith("param_norm/"):
            continue
        series = t.series(name)
        s = signal(series) if series is not None else None
        if s is not None and s.log:
            yield from _jumps(s)


def _jumps(s: ScreenedColumn) -> Iterator[Finding]:
    c = changes(s.y, s.step)
    size = np.abs(c.change)
    last = -50
    for row in np.flatnonzero((size >= FLOOR) & (size >= TIMES * c.usual)).tolist():
        if row - last < 50:
            continue
        last = row
        base = float(s.y[row - 1])
        away = np.abs(s.y[row : row + 1000] - base)
        back = np.flatnonzero(away <= 0.2 * size[row])
        usual = max(float(c.usual[row]), FLOOR / TIMES)
        yield Finding(
            detector="param_norm",
            kind="param_norm_jump",
            column=s.name,
            onset_step=int(s.step[row]),
            onset_interval=onset_interval(s.step, row),
            peak_step=int(s.step[row]),
            recovery_step=int(s.step[row + int(back[0])]) if back.size else None,
            peak=float(s.raw[row]),
            baseline=float(s.raw[row - 1]),
            scale=usual * float(s.raw[row - 1]),
            score=float(size[row]) / usual,
            settled=None,
            outcome=RECOVERED if back.size else LINGERING,
            figures={"ratio": float(np.exp(c.change[row])), "height": float(size[row])},
        )


KIND = Kind("param_norm_jump", "parameter-norm jump", "cause")

DETECTOR = Detector("param_norm", (KIND,), _find, no_stream="Norms of parameters are sampled, not logged at each step.")
