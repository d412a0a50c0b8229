"""Measures how far apart two curves are, compared with their noise.

A *level* is the median of some tens of consecutive rows: a single hard batch does not change it. The noise of a gap is
measured on the gap itself, from second differences of neighboring levels: a trend cancels, and a spike spoils only
three of them, which a median ignores. Where two runs consume the same batches, hard batches cancel and the noise is
small; where they do not, as with two seeds, it is the noise of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem.diagnosis import Trace
from postmortem.diff.model import Gap, NoiseLevel
from postmortem.diff.pair import Curve
from postmortem.series import Steps, Values
from postmortem.stats import SIGMA_PER_MAD
from postmortem.text import number

FINAL_SHARE = 0.05  # the share of the rows that is the end of a run
FEWEST_FINAL = 20  # rows of an end, at least
FEWEST_LEVELS = 8  # fewer levels do not show the noise
MOST_ROWS = 50  # rows of a level, at most: the detectors give a loss as many rows to settle
FLOOR = 0.004  # the smallest noise, as a share of the loss: detectors ignore smaller lingering shifts as well
END_SIGMAS = 3.0
LEAST_SHARE = 0.5  # a longer level keeps at least this share of the deviation: neighbors do not show slow drifts
_LOCAL = 15  # levels that local noise is measured on: early in a training the noise is much larger
_POINTS = 400


@dataclass(frozen=True, eq=False)
class Band:
    """The noise of a gap, and half the band's width at each level: float64[levels]."""

    noise: NoiseLevel
    half: Values


def level_rows(rows: int) -> int:
    """Rows of one level: one in 40 of all `rows`, so that there are enough levels, and at most MOST_ROWS."""
    return min(MOST_ROWS, max(1, rows // 40))


def levels(values: Values, rows: int) -> Values:
    """float64[n // rows]: medians of consecutive rows, the last level ending with the last row; NaN where a row is."""
    count = values.size // rows
    return np.median(values[values.size - count * rows :].reshape(count, rows), axis=1)


def noise_band(curve: Curve, siblings: Sequence[Curve] = ()) -> Band | None:
    """The noise of a gap, from the row on at which the curves diverge; None where there are too few rows.

    Half the width of the band is what n levels of Gaussian noise reach, σ (√(2 ln n) + 1), plus what the loss itself
    falls from one level to the next: of two seeds one is ahead, and where the loss is steep, as early in a training, a
    few steps are a large gap. The end of a run is one level with its own length; it is compared with END_SIGMAS of such
    levels. `siblings` are curves of the first run and runs that are as good: no band is narrower than their measured
    spread.
    """
    rows, last = level_rows(curve.a.size), end_rows(curve.a.size)
    diverged = np.flatnonzero(curve.gap != 0)  # NaN is not 0 either
    after = curve.gap[diverged[0] :] if diverged.size else curve.gap[:0]
    deviation = _deviation(levels(after, rows)) or _deviation_of_both(curve, rows)
    if deviation is None:
        return None
    sigma, local = deviation
    long = _deviation(levels(after, last))
    spread = max((float(_sizes(s.gap, rows).max(initial=0.0)) for s in siblings), default=0.0)
    least = max(FLOOR * min(float(np.median(_sizes(values, rows))) for values in (curve.a, curve.b)), spread)
    count = curve.a.size // rows
    reach = math.sqrt(2 * math.log(count)) + 1
    half = np.full(count, max(reach * sigma, least))
    half[count - local.size :] = np.maximum(reach * np.maximum(local, sigma), least)
    half += np.minimum(*(_change_per_level(levels(values, rows)) for values in (curve.a, curve.b)))
    end = max(END_SIGMAS * (sigma if long is None else max(long[0], LEAST_SHARE * sigma)), least)
    return Band(NoiseLevel(rows, sigma, max(reach * sigma, least), end, len(siblings)), half)


def measure_gap(curve: Curve, noise: Band, row_step: int, event: int | None) -> Gap:
    """The gap between two curves; `event` is the first step at which something happened to only one run."""
    difference = curve.gap
    finite = np.isfinite(difference)
    size = np.where(finite, np.abs(difference), 0.0)
    largest = int(np.argmax(size))
    rows = noise.noise.rows
    level = levels(difference, rows)
    step = _middles(curve.step_a, rows)
    before = 0 if event is None else int(np.searchsorted(curve.step_a, event))
    last = end_rows(difference.size)
    drawn = _positions_to_draw(level.size)
    return Gap(
        column=curve.column,
        by=curve.by,
        rows=difference.size,
        nonfinite=int((~finite).sum()),
        area=float(size.sum()) * (row_step if curve.by == "step" else 1),
        largest=float(difference[largest]) if finite[largest] else math.nan,
        largest_at=(int(curve.step_a[largest]), int(curve.step_b[largest])),
        before=_final_level(difference[:before]) if before >= FEWEST_FINAL else None,
        before_noise=float(noise.half[max(0, level.size - 1 - (difference.size - before) // rows)]),
        final=_final_level(difference),
        final_rows=last,
        levels=level.size,
        outside=int((~(np.abs(level) <= noise.half)).sum()),
        noise=noise.noise,
        level=Trace("gap", tuple(step[drawn].tolist()), tuple(level[drawn].tolist())),
        band=tuple(noise.half[drawn].tolist()),
    )


def recovery_step(curve: Curve, noise: Band, first: int, until: int) -> int | None:
    """The step in [first, until) from which on every level is within the band; None where the last level is not."""
    rows = noise.noise.rows
    level = levels(curve.gap, rows)
    begin = curve.step_a[curve.a.size - level.size * rows :][::rows]
    end = np.append(begin[1:], curve.step_a[-1] + 1)
    window = np.flatnonzero((end > first) & (begin < until))
    outside = window[~(np.abs(level[window]) <= noise.half[window])]
    if not outside.size:
        return first
    return None if outside[-1] == window[-1] else max(first, int(begin[outside[-1] + 1]))


def end_rows(rows: int) -> int:
    """The number of rows that are the end of a run with `rows` rows."""
    return min(rows, max(FEWEST_FINAL, round(FINAL_SHARE * rows)))


def thinned(name: str, step: Steps, value: Values) -> Trace:
    """A curve to draw: the smallest and the largest value of each bucket, so that every spike stays visible."""
    if step.size > 2 * _POINTS:
        rows = step.size // _POINTS
        buckets = value[: _POINTS * rows].reshape(_POINTS, rows)
        buckets = np.where(np.isfinite(buckets), buckets, np.inf)
        first = np.arange(_POINTS) * rows
        low = first + np.argmin(buckets, axis=1)
        high = first + np.argmax(buckets, axis=1)
        keep = np.unique(np.concatenate((low, high, np.arange(_POINTS * rows, step.size))))
        step, value = step[keep], value[keep]
    return Trace(name, tuple(step.tolist()), tuple(value.tolist()))


def smooth(step: Steps, value: Values) -> Trace:
    """The levels of a curve, to draw over its rows."""
    rows = level_rows(value.size)
    level, middle = levels(value, rows), _middles(step, rows)
    drawn = _positions_to_draw(level.size)
    return Trace("level", tuple(middle[drawn].tolist()), tuple(level[drawn].tolist()))


def nats(size: float) -> str:
    """A gap's size as people read it, to two significant digits."""
    return f"{size:.2g}" if size < 10 else number(float(f"{size:.3g}"))


def signed(gap: float) -> str:
    """A gap with its sign: `+0.012`."""
    return nats(gap) if math.isnan(gap) else f"{'+' if gap >= 0 else '−'}{nats(abs(gap))}"


def _change_per_level(level: Values) -> Values:
    """The change of a curve from one level to the next, float64[levels]; 0 where it is unknown."""
    return np.nan_to_num(np.abs(np.gradient(level)), nan=0.0, posinf=0.0)


def _middles(step: Steps, rows: int) -> Steps:
    """The step in the middle of each level."""
    return step[step.size % rows :][rows // 2 :: rows]


def _positions_to_draw(count: int) -> NDArray[np.intp]:
    """At most _POINTS positions among `count`, evenly spaced, the first and the last included."""
    return np.linspace(0, count - 1, min(count, _POINTS)).astype(np.intp)


def _deviation_of_both(curve: Curve, rows: int) -> tuple[float, Values] | None:
    """The combined deviation of two curves that hardly diverge, each around its own trend."""
    a, b = (_deviation(levels(values, rows)) for values in (curve.a, curve.b))
    return None if a is None or b is None else (math.hypot(a[0], b[0]), np.hypot(a[1], b[1]))


def _sizes(values: Values, rows: int) -> Values:
    """Magnitudes of the finite levels."""
    level = levels(values, rows)
    return np.abs(level[np.isfinite(level)])


def _final_level(values: Values) -> float:
    """The median of the last rows; NaN where most of them are not finite."""
    last = values[-end_rows(values.size) :]
    finite = last[np.isfinite(last)]
    return float(np.median(finite)) if 2 * finite.size > last.size else math.nan


def _deviation(level: Values) -> tuple[float, Values] | None:
    """(σ over all, σ around each level) of a curve's levels around their trend; None where too few are finite.

    A second difference of independent levels has √6 times their deviation.
    """
    second = np.abs(level[:-2] - 2 * level[1:-1] + level[2:]) / math.sqrt(6)
    sound = np.isfinite(second)
    if sound.sum() < FEWEST_LEVELS - 2:
        return None
    overall = SIGMA_PER_MAD * float(np.median(second[sound]))
    filled: NDArray[np.float64] = np.where(sound, second, np.median(second[sound]))
    around = np.pad(filled, (1 + _LOCAL // 2, 1 + _LOCAL // 2), mode="reflect")  # a spike at the end is not repeated
    local = SIGMA_PER_MAD * np.median(np.lib.stride_tricks.sliding_window_view(around, _LOCAL), axis=1)
    return overall, local
