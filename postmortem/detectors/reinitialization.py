"""A run that begins anew within its log: the loss of its first row again, and the rate of its first row again.

A resume that lost the weights shows the same loss, but the schedule goes on; a warm restart shows the same rate, but
the loss stays. Both together are a model that was initialized again and a schedule that starts from its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from postmortem.detectors._excursion import excursion_finding, follow_excursion
from postmortem.detectors._model import Detector, Finding, Telemetry
from postmortem.detectors._screen import MIN_ROWS, MIN_SCALE, screened_column
from postmortem.incident import Kind
from postmortem.stats import median, robust_sigma

SAME_LOSS_LOG, LEAST_RISE_LOG = 0.05, float(np.log(1.5))
"""Log units: how close the loss comes to that of the first row (the loss of an untrained model hardly varies), and how
far it rises to it within one row."""

SAME_RATE_SHARE = 0.02
"""How close the rate comes to that of the first row, as a share of the highest rate."""

LATER_ROWS = 50
"""Rows after the first ones and after the return in which the rate rises again to another value: one that is constant
says nothing."""

KIND = Kind("reinitialization", "re-initialization", "cause", "loss")


def _detect(t: Telemetry) -> Iterator[Finding]:
    s, rate = screened_column(t.series("loss")), t.series("lr")
    if s is None or not s.log or s.y.size <= MIN_ROWS or rate is None or not len(rate) or rate.step[0] > s.step[0]:
        return
    lr = rate.value[np.searchsorted(rate.step, s.step, side="right") - 1]  # the rate of each row of the loss
    near = SAME_RATE_SHARE * float(np.max(np.abs(lr)))
    rise = np.diff(s.y, prepend=s.y[:1])
    again = (rise >= LEAST_RISE_LOG) & (np.abs(s.y - s.y[0]) <= SAME_LOSS_LOG) & (np.abs(lr - lr[0]) <= near)
    for row in np.flatnonzero(again).tolist():
        if row < MIN_ROWS or float(np.max(np.abs(lr[row : row + LATER_ROWS] - lr[0]))) <= near:
            continue
        before = s.y[max(row - LATER_ROWS, 0) : row]
        center = float(median(before))
        e = follow_excursion(s, row, row, row, center, max(robust_sigma(before), MIN_SCALE))
        f = excursion_finding(s, e, "reinitialization", KIND.slug)
        figures = {"loss": float(s.raw[row]), "first_loss": float(s.raw[0]), "lr": float(lr[row])}
        yield replace(f, figures={**f.figures, **figures, "first_lr": float(lr[0]), "first_step": float(s.step[0])})


DETECTOR = Detector(
    "reinitialization",
    (KIND,),
    _detect,
    no_stream="The loss of such a row is reported by `loss_spike`, and a loop that begins anew has new live detectors.",
)
