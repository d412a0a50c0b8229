"""Measures departures from the baseline for several panels, and writes them as text that names the column.

A value that is not finite is no departure of a size: `finite_departure` measures the rows before it, and `Panel.read`
reports it as what it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from postmortem.case import Case
from postmortem.departure import Departure
from postmortem.detectors import DIVERGED, UNRESOLVED
from postmortem.series import Series
from postmortem.stats import MEDIAN_ERROR, median, noise_sigma
from postmortem.text import listed, number, plain, times

STILL_ROWS = 5  # rows before and after the onset that show whether a column stands still since then


def moved_columns(case: Case, names: Iterable[str], sign: int = 0) -> tuple[list[Departure], tuple[str, ...]]:
    """The finite departures of the columns that moved, first mover first, and the columns that have a baseline."""
    departures = [d for name in names if (d := finite_departure(case, name, sign=sign)) is not None]
    moved = [d for d in departures if d.moved]
    return sorted(moved, key=lambda d: (d.first_step, -abs(d.z))), tuple(d.column for d in departures)


def finite_departure(case: Case, name: str, span: tuple[int, int] | None = None, sign: int = 0) -> Departure | None:
    """`Case.departure`, of the rows before the first value that is not finite.

    None also where these rows did not move, and where none of them is after the onset: that a column became NaN, or was
    not logged any more, does not say that it did not move.
    """
    first, last = span or case.span_of(name)
    broken, series = first_nonfinite(case, name, (first, last)), case.series(name)
    d = case.departure(name, (first, last if broken is None else broken), sign)
    over = first < case.onset < last and series is not None and not len(series.window(case.onset, last))
    return d if d is not None and (d.moved or (broken is None and not over)) else None


DROP_ROWS = 60  # how far after the onset a drop is searched: a stuck loader lowers the loss for tens of steps


def loss_rise(case: Case, column: str = "loss") -> Departure | None:
    """The highest row of a loss in the incident, measured from its level before: the peak of the incident itself where
    that is one of this loss. None where there is no baseline, or the loss is not finite."""
    return _from_level(case, finite_departure(case, column, sign=1))


def loss_drop(case: Case) -> Departure | None:
    """The lowest row of the loss after the onset, measured from its level before."""
    span = (case.onset, case.onset + DROP_ROWS * case.row_step)
    return _from_level(case, finite_departure(case, "loss", span, sign=-1))


def _from_level(case: Case, d: Departure | None) -> Departure | None:
    """A departure of a loss, measured from the same level before the incident in every section of the report."""
    level = None if d is None else case.before(d.column)
    if d is None or level is None:
        return d
    return replace(d, baseline=level.value, ratio=level.ratio(d.value))


def furthest(case: Case, column: str = "loss") -> tuple[int, float] | None:
    """(step, value) of the row of a loss, or of the column that the incident is one of, that is furthest from its level
    before: the same in every section of the report. Where a loss did not depart, its highest row around the incident.
    None where none is logged there."""
    series, incident = case.series(column), case.incident
    if series is None:
        return None
    if case.primary.column == column:
        value = series.at(incident.peak_step)
        return None if value is None else (incident.peak_step, value)
    if (broken := first_nonfinite(case, column)) is not None and broken >= case.onset:
        return broken, float(series.value[series.step == broken][0])
    up, down = loss_rise(case, column), loss_drop(case) if column == "loss" else None
    departed = [d for d in (up, down) if d is not None and (d.moved or (d is up and d.z > 0 and case.loss_moved()))]
    if departed:
        furthest = max(departed, key=lambda d: abs(d.z))
        return furthest.step, furthest.value
    near = series.window(case.onset, max(incident.peak_step, case.onset) + 3 * case.row_step)
    highest = int(np.argmax(near.value)) if len(near) else -1
    return (int(near.step[highest]), float(near.value[highest])) if len(near) else None


def first_nonfinite(case: Case, name: str, span: tuple[int, int] | None = None) -> int | None:
    """The first step in `span` (default: the incident's) where the column is not finite."""
    series = case.series(name)
    near = series.window(*(span or case.span)) if series is not None else None
    bad = np.empty(0, np.int64) if near is None else near.step[~np.isfinite(near.value)]
    return int(bad[0]) if bad.size else None


def stands_still(case: Case, name: str) -> tuple[float, int] | None:
    """(the one value, number of rows) of a column that is the same from the onset to the last row, and was not before;
    None where it is not."""
    series = case.series(name)
    if series is None:
        return None
    first = int(np.searchsorted(series.step, case.onset))
    before, after = series.value[max(first - STILL_ROWS, 0) : first], series.value[first:]
    still = after.size >= STILL_ROWS and np.ptp(after) == 0 and before.size == STILL_ROWS and np.ptp(before) > 0
    return (float(after[0]), after.size) if still else None


GROWTH_ROWS = 10  # rows just before the onset whose level is compared with that of the rows before them
GROWN = 1.25  # the least factor between these levels that is called growth


def growth_before(case: Case, name: str) -> tuple[float, float] | None:
    """(level before, level just before the onset) of a positive column that grows towards the onset; None where it does
    not, or too few rows say so. What a single batch does has no such announcement.

    Levels are medians of the logarithm, and differ by more than three of their standard errors.
    """
    series = case.series(name)
    if series is None:
        return None
    rows = series.window(case.unaffected_from(4 * GROWTH_ROWS), case.onset).value
    if rows.size < 4 * GROWTH_ROWS or not (np.isfinite(rows) & (rows > 0)).all():
        return None
    before, just = np.log(rows[-4 * GROWTH_ROWS : -2 * GROWTH_ROWS]), np.log(rows[-GROWTH_ROWS:])
    error = MEDIAN_ERROR * noise_sigma(np.log(rows)) * math.sqrt(1 / before.size + 1 / just.size)
    grown = float(median(just) - median(before))
    if grown < max(math.log(GROWN), 3 * error):
        return None
    return math.exp(float(median(before))), math.exp(float(median(just)))


def resume_steps(case: Case) -> NDArray[np.int64]:
    """The steps at which the run was resumed, int[n], in order: where an attempt began, and where the journal says."""
    begun = {s.first_step for s in case.run.segments if s.attempt > 0}
    journaled = {e.step for e in case.timeline.of("resume") if e.step is not None}
    return np.array(sorted(begun | journaled), np.int64)


def incident_rows(case: Case, series: Series) -> Series:
    """The rows of `series` from the onset to where the last column of the incident settles, or to the end of the log.

    A count is of the whole incident, and the span in which columns are searched ends three rows after the peak.
    """
    lasting = any(f.recovery_step is None and f.outcome in (DIVERGED, UNRESOLVED) for f in case.incident.findings)
    ends = [case.span[1], *(f.recovery_step or f.peak_step for f in case.incident.findings)]
    return series.window(case.span[0], int(series.step[-1]) + 1 if lasting and len(series) else max(ends))


def departure_text(d: Departure) -> str:
    """`grad_norm 47.2 at step 312, baseline 0.6 (79×)`."""
    factor = f" ({times(d.ratio)})" if math.isfinite(d.ratio) else ""
    return f"{plain(d.column, 60)} {grouped(d.value)} at step {d.step}, baseline {grouped(d.baseline)}{factor}"


def unclear_text(d: Departure) -> str:
    """What to say of a departure that is large, but not `moved`, and so not `flat` either."""
    between = f"between {grouped(d.lowest)} and {grouped(d.highest)}"
    return f"{departure_text(d)}, where the rows before lie {between}: they vary too much to call it a departure"


def unclear(*departures: Departure | None) -> Departure | None:
    """The first departure that is neither moved nor flat; None where there is none."""
    return next((d for d in departures if d is not None and not d.moved and not d.flat), None)


def old_level_text(case: Case, settled: float | None) -> str:
    """` of 2.31`, the level of the loss before; "" where the loss did not settle above it: then the row-by-row level
    that the detector follows differs."""
    level = case.before()
    return "" if level is None or (settled is not None and settled <= level.value) else f" of {number(level.value)}"


def column_names(names: Iterable[str]) -> str:
    """The names of columns as a list: `act_rms/a and act_rms/b`; the fourth and later ones are counted."""
    shown = [plain(name, 60) for name in names]
    return listed([*shown[:3], f"{len(shown) - 3} more"] if len(shown) > 4 else shown)


def grouped(value: float) -> str:
    """A measured number as people read it, with thousands separated: `65,536`."""
    text = number(value)
    return f"{int(text):,}" if text.removeprefix("-").isdigit() else text


def departure_figures(d: Departure) -> dict[str, float | None]:
    """The figures in `departure_text` and `unclear_text`, for the JSON."""
    ratio = None if math.isnan(d.ratio) else d.ratio
    figures = {"value": d.value, "baseline": d.baseline, "ratio": ratio, "z": d.z, "first_step": d.first_step}
    return figures if d.moved or d.flat else {**figures, "lowest": d.lowest, "highest": d.highest}


def moving_order(moved: list[Departure]) -> str:
    """The members of a family in the order in which they moved: `layer 0 (step 312), then layer 1 (step 313)`."""
    parts = [f"{plain(d.column.partition('/')[2], 40)} (step {d.first_step})" for d in moved[:4]]
    more = f" and {len(moved) - 4} more" if len(moved) > 4 else ""
    return ", then ".join(parts) + more


QUANTILES = {"token_loss_p50": 0.5, "token_loss_p90": 0.9, "token_loss_p99": 0.99, "token_loss_max": 1.0}


def token_share_of_rise(case: Case) -> tuple[float, int] | None:
    """(share, step): the share of the rise of the loss that the token quantiles of the same row explain, at the row
    where they explain most.

    The loss is the mean over tokens, so its rise is the integral of the quantiles' rise over the levels (trapezoid
    between the logged levels; below the lowest level, its own rise is assumed). A share near 1: loss and quantiles
    agree. Near 0: the quantiles do not show the rise. None where the loss did not rise, or nothing can be compared.
    """
    loss, peak = case.series("loss"), case.departure("loss", sign=1)
    levels = [name for name in QUANTILES if case.level(name) is not None]
    if loss is None or peak is None or not (peak.moved or case.loss_moved()):
        return None
    if not np.isfinite(peak.value) or len(levels) < 2:
        return None
    best: tuple[float, int] | None = None
    rows = loss.window(*case.span)
    for step, value in zip(rows.step.tolist(), rows.value.tolist(), strict=True):
        rise = value - peak.baseline
        departures = {name: case.departure(name, (step, step + 1)) for name in levels}
        if not rise >= 0.5 * (peak.value - peak.baseline) or any(d is None for d in departures.values()):
            continue
        shifts = [d.value - d.baseline for d in departures.values() if d is not None]
        quantiles = [0.0, *(QUANTILES[name] for name in levels)]
        share = float(np.trapezoid([shifts[0], *shifts], quantiles)) / rise
        if np.isfinite(share) and (best is None or share > best[0]):
            best = share, step
    return best
