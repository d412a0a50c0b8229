"""Panel 2, the learning rate: whether it is smooth or jumps away from its own trend."""

from __future__ import annotations

import math

import numpy as np

from postmortem.case import BASELINE_ROWS, Case, Observation
from postmortem.detectors import Finding
from postmortem.panels import Panel
from postmortem.panels._measuring import stands_still
from postmortem.series import Series
from postmortem.text import count, number, times

_JUMP = "lr_discontinuity"
EXTREME_ADAM_LR = 0.05  # published Adam recipes peak between 1e-5 and 6e-3


def _measure(case: Case) -> list[Observation]:
    series = case.series("lr")
    if series is None:
        return []
    jump = _jump_in_incident(case) or _jump_before(case, series)
    if jump is not None:
        ratio = _ratio(jump)
        factor = f" ({times(ratio)})" if math.isfinite(ratio) else ""
        text = (
            f"lr jumps to {number(jump.peak)} at step {jump.onset_step}, where its trend predicts "
            f"{number(jump.baseline)}{factor}"
        )
        figures = {"value": jump.peak, "baseline": jump.baseline, "ratio": ratio}
        return [Observation("lr.jump", text, "lr", jump.onset_step, figures)]
    near = series.window(case.onset - 10 * case.row_step, case.span[1])
    if len(near) < 3 or not np.isfinite(near.value).all():
        return []
    value = float(near.value[-1])
    if (still := stands_still(case, "lr")) is not None:
        text = f"stands still: lr is {number(still[0])} in each of the {count(still[1], 'row')} since the onset"
        return [Observation("lr.stands_still", text, "lr", case.onset, {"value": still[0]})]
    text = f"no jump: lr is smooth through the incident ({number(value)})"
    observations = [Observation("lr.smooth", text, "lr", case.onset, {"value": value}, moved=False)]
    rates = series.value[np.isfinite(series.value)]
    highest = float(rates.max())
    if highest > 0 and rates.min() < 0.9 * highest and value >= 0.9 * highest:
        text = f"near its highest value: lr is within 10 % of {number(highest)} at the time of the incident"
        figures = {"value": value, "highest": highest}
        observations.append(Observation("lr.near_peak", text, "lr", case.onset, figures, moved=False))
    if value >= EXTREME_ADAM_LR and case.series("adam_v_norm") is not None:
        text = f"lr {number(value)} is about ten times the rates at which Adam trains well in the literature, or more"
        observations.append(Observation("lr.extreme", text, "lr", case.onset, {"value": value}, moved=False))
    return observations


def _jump_in_incident(case: Case) -> Finding | None:
    """The incident's first jump; a jump after its peak did not cause it."""
    return next(
        (f for f in case.incident.findings if f.kind == _JUMP and f.onset_step <= case.incident.peak_step), None
    )


def _jump_before(case: Case, series: Series) -> Finding | None:
    """The last upward jump shortly before the onset, in an incident of the same history, if the rate is still up."""
    earliest = case.onset - BASELINE_ROWS * case.row_step
    history = (case.incident.attempt, case.incident.discarded)
    incidents = [i for i in case.incidents if (i.attempt, i.discarded) == history]
    jumps = [f for i in incidents for f in i.findings if f.kind == _JUMP and earliest <= f.onset_step < case.onset]
    last = max(jumps, key=lambda f: f.onset_step, default=None)
    rate = series.window(0, case.onset + 1).value[-1:]
    if last is None or _ratio(last) <= 1 or not rate.size:
        return None
    return last if rate[0] >= last.baseline + 0.5 * (last.peak - last.baseline) else None


def _ratio(jump: Finding) -> float:
    return jump.peak / jump.baseline if jump.baseline else float("inf")


PANEL = Panel(
    2,
    "lr",
    "Learning rate",
    ("lr",),
    _measure,
    "whether the schedule jumped (an abrupt end of the warmup, a misaligned restart): log lr at each step",
    constant_is_silent=False,
    observes=(
        "lr.jump",
        "lr.smooth",
        "lr.stands_still",
        "lr.near_peak",
        "lr.extreme",
        "lr.nonfinite",
    ),
    nonfinite="lr.nonfinite",
)
