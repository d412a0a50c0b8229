"""Panel 2, the learning rate: whether it is smooth or jumps away from its own trend, and how high it is."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from postmortem.case import BASELINE_ROWS, Case, Observation
from postmortem.detectors import DIVERGED, UNRESOLVED, Finding
from postmortem.diagnosis import Figure
from postmortem.panels import Panel
from postmortem.panels._measuring import stands_still
from postmortem.series import Series
from postmortem.stats import median
from postmortem.text import count, number, times

_JUMP = "lr_discontinuity"
EXTREME_ADAM_LR = 0.05  # published Adam recipes peak between 1e-5 and 6e-3
ADAM_COLUMNS = ("adam_m_norm", "adam_v_norm", "g2_over_v")
EXTREME_STEP = 0.01  # root mean square by which a step moves a weight: half the spread of 0.02 with which GPT begins
NEAR, LOW = 0.9, 0.5  # shares of the highest rate: near it, and low enough that the rates of a run differ
FEWEST_ELSEWHERE = 0.2  # share of the rows whose rate is not near the highest: in a flat schedule every row is near it
FEWEST_ONSETS = 3  # incidents whose rates are compared
RECURS_IN = ("loss", "grad_norm")  # columns in which a rate that is too high shows again and again


def _measure(case: Case) -> list[Observation]:
    series = case.series("lr")
    if series is None:
        return []
    jump = _jump_in_incident(case) or _jump_before(case, series)
    if jump is not None:
        text = (
            f"lr jumps to {number(jump.peak)} at step {jump.onset_step}, where its trend predicts "
            f"{number(jump.baseline)}{_factor(jump)}"
        )
        return [Observation("lr.jump", text, "lr", jump.onset_step, _jump_figures(jump))]
    near = series.window(case.onset - 10 * case.row_step, case.span[1])
    if len(near) < 3 or not np.isfinite(near.value).all():
        return []
    value = float(near.value[-1])
    if (still := stands_still(case, "lr")) is not None:
        text = f"stands still: lr is {number(still[0])} in each of the {count(still[1], 'row')} since the onset"
        return [Observation("lr.stands_still", text, "lr", case.onset, {"value": still[0]})]
    return [_course(case, value), *_height(case, series)]


def _course(case: Case, value: float) -> Observation:
    """That the rate is smooth until the incident, and whether it still is when that ends."""
    later = _jump_later(case)
    if later is None:
        text = f"no jump: lr is smooth through the incident ({number(value)})"
        return Observation("lr.smooth", text, "lr", case.onset, {"value": value}, moved=False)
    text = (
        f"lr is smooth until the onset, and jumps from {number(later.baseline)} to {number(later.peak)}"
        f"{_factor(later)} at step {later.onset_step}, after the peak"
    )
    return Observation("lr.jump_after", text, "lr", later.onset_step, _jump_figures(later))


def _height(case: Case, series: Series) -> Iterator[Observation]:
    """How the rate of the onset compares with the other rates of the run, and with what any model stands."""
    at_onset = series.window(0, case.onset + 1).value[-1:]
    rates = series.value[np.isfinite(series.value)]
    if not at_onset.size or not np.isfinite(at_onset[0]):
        return
    value, highest = float(at_onset[0]), float(rates.max())
    elsewhere = float(np.mean(rates < NEAR * highest))
    if highest > 0 and value >= NEAR * highest and elsewhere >= FEWEST_ELSEWHERE:
        percent = number(round(100 * (1 - elsewhere)))
        text = (
            f"near its highest value: lr is {number(value)} at the onset, within 10 % of {number(highest)}, as in "
            f"{percent} % of the rows"
        )
        figures = {"value": value, "highest": highest}
        yield Observation("lr.near_peak", text, "lr", case.onset, figures, elsewhere, moved=False)
    yield from _recurs_high(case, series)
    update = _usual_update(case)
    if update is not None and value * update >= EXTREME_STEP:
        text = (
            f"lr {number(value)} × update_rms {number(update)}: a step moves a weight by {number(value * update)}, and "
            f"weights begin at about 0.02"
        )
        yield Observation("lr.extreme", text, "lr", case.onset, {"value": value, "update": update}, moved=False)
    elif value >= EXTREME_ADAM_LR and any(case.series(name) is not None for name in ADAM_COLUMNS):
        text = f"lr {number(value)} is about ten times the rates at which Adam trains well in the literature, or more"
        yield Observation("lr.extreme", text, "lr", case.onset, {"value": value}, moved=False)


def _usual_update(case: Case) -> float | None:
    """The root mean square of an update ÷ lr before the onset; the median of all rows up to it where there are few."""
    series = case.series("update_rms")
    rows = np.empty(0) if series is None else series.window(0, case.onset + 1).value
    rows = rows[np.isfinite(rows)]
    return case.level("update_rms") or (float(median(rows)) if rows.size else None)


def _recurs_high(case: Case, series: Series) -> Iterator[Observation]:
    """Whether the incidents of the run lie where its rate is high.

    The share of rows with a lower rate is uniform over [0, 1] for an incident at any time; the mean of that share over
    all onsets is so high by chance in 1 of 40 runs.
    """
    peers = [i for i in case.incidents if i.lineage == case.incident.lineage]
    steps = {i.onset_step for i in peers if any(f.column in RECURS_IN for f in i.findings)}
    onsets = np.array(sorted(steps), np.int64)
    keep = np.isfinite(series.value)
    step, rate = series.step[keep], series.value[keep]
    if onsets.size < FEWEST_ONSETS or rate.size < 2 or rate.min() > LOW * rate.max():
        return
    at = rate[np.maximum(np.searchsorted(step, onsets, side="right") - 1, 0)]
    in_order = np.sort(rate)
    share = (np.searchsorted(in_order, at) + np.searchsorted(in_order, at, side="right")) / (2 * rate.size)
    mean = float(share.mean())
    if (mean - 0.5) * math.sqrt(12 * onsets.size) < 2:
        return
    percent = number(round(100 * mean))
    text = f"{onsets.size} incidents begin where lr is high: it is lower in {percent} % of the rows, on average"
    yield Observation("lr.recurs_high", text, "lr", case.onset, {"incidents": onsets.size, "share_lower": mean})


def _jump_in_incident(case: Case) -> Finding | None:
    """The incident's first jump; a jump after its peak did not cause it."""
    return next(
        (f for f in case.incident.findings if f.kind == _JUMP and f.onset_step <= case.incident.peak_step), None
    )


def _jump_before(case: Case, series: Series) -> Finding | None:
    """The last upward jump shortly before the onset, in an incident of the same history, if the rate is still up."""
    earliest = case.onset - BASELINE_ROWS * case.row_step
    jumps = [f for f in _jumps(case) if earliest <= f.onset_step < case.onset]
    last = max(jumps, key=lambda f: f.onset_step, default=None)
    rate = series.window(0, case.onset + 1).value[-1:]
    if last is None or _ratio(last) <= 1 or not rate.size:
        return None
    return last if rate[0] >= last.baseline + 0.5 * (last.peak - last.baseline) else None


def _jump_later(case: Case) -> Finding | None:
    """The first jump after the peak and before the incident ends, in this incident or another of the same history."""
    end = case.incident.recovery_step or max(case.incident.peak_step + 1, case.span[1])
    if case.incident.recovery_step is None and case.incident.outcome in (DIVERGED, UNRESOLVED):
        end = int(case.run.row_steps[-1]) + 1
    jumps = [f for f in _jumps(case) if case.incident.peak_step < f.onset_step < end]
    return min(jumps, key=lambda f: f.onset_step, default=None)


def _jumps(case: Case) -> list[Finding]:
    """All jumps of the rate in the incident's own history."""
    history = (case.incident.attempt, case.incident.discarded)
    incidents = [i for i in case.incidents if (i.attempt, i.discarded) == history]
    return [f for i in incidents for f in i.findings if f.kind == _JUMP]


def _factor(jump: Finding) -> str:
    return f" ({times(_ratio(jump))})" if math.isfinite(_ratio(jump)) else ""


def _jump_figures(jump: Finding) -> dict[str, Figure]:
    return {"value": jump.peak, "baseline": jump.baseline, "ratio": _ratio(jump)}


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
        "lr.jump_after",
        "lr.smooth",
        "lr.stands_still",
        "lr.near_peak",
        "lr.recurs_high",
        "lr.extreme",
        "lr.nonfinite",
    ),
    nonfinite="lr.nonfinite",
)
