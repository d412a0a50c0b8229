"""How far two curves lie apart, held against noise.

A *level* is the median of some tens of consecutive rows: what a batch more or less hard does not move. The noise of a
gap is read off the gap itself, from second differences of its neighbouring levels: a trend cancels, and a spike spoils
three of them, which a median does not feel. Where two runs consume the same batches, what is hard for both cancels and
the noise is small; where they do not, as with two seeds, it is that of both.
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

FINAL_SHARE = 0.05  # of the rows are the end of a run
FEWEST_FINAL = 20  # rows that an end has at least
FEWEST_LEVELS = 8  # fewer say nothing of noise
MOST_ROWS = 50  # of a level, as many as the detectors give a loss to settle
FLOOR = 0.004  # of the loss: no noise is taken for less, as the detectors take no smaller shift for a lingering one
END_SIGMAS = 3.0
LEAST_SHARE = 0.5  # of a level's deviation is left in a longer one's: what wanders slowly, neighbours do not show
_LOCAL = 15  # levels around each other that are as noisy: early in a training they are far noisier
_POINTS = 400


@dataclass(frozen=True, eq=False)
class Band:
    """The noise of a gap, and half the band's width at each level: float64[levels]."""

    noise: NoiseLevel
    half: Values


def level_rows(rows: int) -> int:
    """Rows of one level: 1 in 40, so that there are enough levels, and at most MOST_ROWS."""
    return min(MOST_ROWS, max(1, rows // 40))


def levels(values: Values, rows: int) -> Values:
    """float64[n // rows]: medians of consecutive rows, the last one ending with the last row; NaN where one is."""
    count = values.size // rows
    return np.median(values[values.size - count * rows :].reshape(count, rows), axis=1)


def band(curve: Curve, siblings: Sequence[Curve] = ()) -> Band | None:
    """The noise of a gap, from the row on at which the curves part; None where there are too few rows.

    Half the band's width is what as many levels of Gaussian noise as there are reach, σ (√(2 ln n) + 1), and what the
    loss itself falls from one level to the next: of two seeds one is ahead, and where the loss is steep, as early in a
    training, a few steps ahead are a large gap. The end of a run is one level of its own length, and held against
    END_SIGMAS of such levels. `siblings` are the first curve against runs that are as good: no band is narrower than
    the spread that was measured.
    """
    rows, last = level_rows(curve.a.size), end_rows(curve.a.size)
    parted = np.flatnonzero(curve.gap != 0)  # NaN is not 0, either
    after = curve.gap[parted[0] :] if parted.size else curve.gap[:0]
    wander = _wander(levels(after, rows)) or _wander_of_both(curve, rows)
    if wander is None:
        return None
    sigma, local = wander
    long = _wander(levels(after, last))
    spread = max((float(_sizes(s.gap, rows).max(initial=0.0)) for s in siblings), default=0.0)
    least = max(FLOOR * min(float(np.median(_sizes(values, rows))) for values in (curve.a, curve.b)), spread)
    count = curve.a.size // rows
    reach = math.sqrt(2 * math.log(count)) + 1
    half = np.full(count, max(reach * sigma, least))
    half[count - local.size :] = np.maximum(reach * np.maximum(local, sigma), least)
    half += np.minimum(*(_pace(levels(values, rows)) for values in (curve.a, curve.b)))
    end = max(END_SIGMAS * (sigma if long is None else max(long[0], LEAST_SHARE * sigma)), least)
    return Band(NoiseLevel(rows, sigma, max(reach * sigma, least), end, len(siblings)), half)


def gap(curve: Curve, noise: Band, row_step: int, event: int | None) -> Gap:
    """What lies between two curves; `event` is the first step at which something happened to one run alone."""
    difference = curve.gap
    finite = np.isfinite(difference)
    size = np.where(finite, np.abs(difference), 0.0)
    at = int(np.argmax(size))
    rows = noise.noise.rows
    level = levels(difference, rows)
    step = _middles(curve.step_a, rows)
    before = 0 if event is None else int(np.searchsorted(curve.step_a, event))
    last = end_rows(difference.size)
    drawn = _picked(level.size)
    return Gap(
        column=curve.column,
        by=curve.by,
        rows=difference.size,
        nonfinite=int((~finite).sum()),
        area=float(size.sum()) * (row_step if curve.by == "step" else 1),
        largest=float(difference[at]) if finite[at] else math.nan,
        largest_at=(int(curve.step_a[at]), int(curve.step_b[at])),
        before=_end(difference[:before]) if before >= FEWEST_FINAL else None,
        before_noise=float(noise.half[max(0, level.size - 1 - (difference.size - before) // rows)]),
        final=_end(difference),
        final_rows=last,
        levels=level.size,
        outside=int((~(np.abs(level) <= noise.half)).sum()),
        noise=noise.noise,
        level=Trace("gap", tuple(step[drawn].tolist()), tuple(level[drawn].tolist())),
        band=tuple(noise.half[drawn].tolist()),
    )


def back(curve: Curve, noise: Band, first: int, until: int) -> int | None:
    """The step in [first, until) from which every level lies within the band; None where the last one does not."""
    rows = noise.noise.rows
    level = levels(curve.gap, rows)
    begin = curve.step_a[curve.a.size - level.size * rows :][::rows]
    end = np.append(begin[1:], curve.step_a[-1] + 1)
    here = np.flatnonzero((end > first) & (begin < until))
    out = here[~(np.abs(level[here]) <= noise.half[here])]
    if not out.size:
        return first
    return None if out[-1] == here[-1] else max(first, int(begin[out[-1] + 1]))


def end_rows(rows: int) -> int:
    """How many rows are the end of a run."""
    return min(rows, max(FEWEST_FINAL, round(FINAL_SHARE * rows)))


def thinned(name: str, step: Steps, value: Values) -> Trace:
    """A curve to draw: smallest and largest value of each bucket, so that no spike is thinned away."""
    if step.size > 2 * _POINTS:
        rows = step.size // _POINTS
        whole = value[: _POINTS * rows].reshape(_POINTS, rows)
        seen = np.where(np.isfinite(whole), whole, np.inf)
        first = np.arange(_POINTS) * rows
        low = first + np.argmin(seen, axis=1)
        high = first + np.argmax(seen, axis=1)
        keep = np.unique(np.concatenate((low, high, np.arange(_POINTS * rows, step.size))))
        step, value = step[keep], value[keep]
    return Trace(name, tuple(step.tolist()), tuple(value.tolist()))


def smooth(step: Steps, value: Values) -> Trace:
    """The levels of a curve, to be drawn over its rows."""
    rows = level_rows(value.size)
    level, middle = levels(value, rows), _middles(step, rows)
    drawn = _picked(level.size)
    return Trace("level", tuple(middle[drawn].tolist()), tuple(level[drawn].tolist()))


def nats(size: float) -> str:
    """A gap's size as people read it, to two significant digits."""
    return f"{size:.2g}" if size < 10 else number(float(f"{size:.3g}"))


def signed(gap: float) -> str:
    """A gap with its sign: `+0.012`."""
    return nats(gap) if math.isnan(gap) else f"{'+' if gap >= 0 else '−'}{nats(abs(gap))}"


def _pace(level: Values) -> Values:
    """How much a curve changes from one level to the next, float64[levels]; 0 where that is not known."""
    return np.nan_to_num(np.abs(np.gradient(level)), nan=0.0, posinf=0.0)


def _middles(step: Steps, rows: int) -> Steps:
    """The step in the middle of each level."""
    return step[step.size % rows :][rows // 2 :: rows]


def _picked(count: int) -> NDArray[np.intp]:
    """At most _POINTS positions among `count`, evenly spread, first and last among them."""
    return np.linspace(0, count - 1, min(count, _POINTS)).astype(np.intp)


def _wander_of_both(curve: Curve, rows: int) -> tuple[float, Values] | None:
    """Of two curves that hardly part, what either does about its own trend."""
    a, b = (_wander(levels(values, rows)) for values in (curve.a, curve.b))
    return None if a is None or b is None else (math.hypot(a[0], b[0]), np.hypot(a[1], b[1]))


def _sizes(values: Values, rows: int) -> Values:
    """Magnitudes of the finite levels."""
    level = levels(values, rows)
    return np.abs(level[np.isfinite(level)])


def _end(values: Values) -> float:
    """Median of the last rows; NaN where most of them are not finite."""
    last = values[-end_rows(values.size) :]
    finite = last[np.isfinite(last)]
    return float(np.median(finite)) if 2 * finite.size > last.size else math.nan


def _wander(level: Values) -> tuple[float, Values] | None:
    """(σ over all, σ around each level) of a curve's levels about their own trend; None where too few are finite.

    Of independent levels a second difference has √6 times their deviation.
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
