"""Metrics that were logged one by one, each with steps and times of its own, as one table of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem.errors import UnreadableInput
from postmortem.run.table import Bounds, Part, Table
from postmortem.run.values import Numbers
from postmortem.series import Steps, Values

MOST_POINTS = 4_000_000
"""Values of one run that are read, in 150 bytes each."""

_KEYS = ("step", "time")


@dataclass(frozen=True, eq=False)
class Points:
    """One metric in the order of writing: step float64[n], time float64[n] in unix seconds, value float64[n]."""

    step: Values
    time: Values
    value: Values


def too_many(file: str) -> UnreadableInput:
    """The refusal of a run of more than `MOST_POINTS` values."""
    return UnreadableInput(f"a run of more than {MOST_POINTS:,} values, which is the limit.", file=file)


@dataclass(frozen=True, eq=False)
class _Column:
    """The rows that log a metric int64[n], each at most once, and its values float64[n]."""

    rows: Steps
    value: Values


def points_table(display_name: str, metrics: Mapping[str, Points], notes: tuple[str, ...] = ()) -> Table:
    """One table with `step`, `time` and the metrics, in the order of time; a column is filled when it is first read.

    Values that follow each other in time and have one step share a row, as long as each metric is in it once. So the
    rows of a restarted run stay behind those that it repeats. Where no metric was logged with a step, all are 0, and
    the points of each metric are counted instead.
    """
    logged = {(f"{name} (metric)" if name in _KEYS else name): points for name, points in metrics.items()}
    counted = _without_steps(logged)
    if counted:
        notes = (
            *notes,
            f"{display_name}: no step was logged: the values of each metric are counted from 0",
        )
    columns, step, time = _rows(logged, counted=counted)
    keys = {"step": Numbers(step, None), "time": Numbers(time, None)}

    def load(name: str) -> Numbers:
        if name in keys:
            return keys[name]
        column = columns[name]
        value, present = np.zeros(step.size), np.zeros(step.size, np.bool_)
        value[column.rows], present[column.rows] = column.value, True
        return Numbers(value, None if column.rows.size == step.size else present)

    def bounds(name: str) -> Bounds:
        value = keys[name].value if name in keys else columns[name].value
        finite = value[np.isfinite(value)]
        return Bounds(step.size - value.size, *((float(finite.min()), float(finite.max())) if finite.size else ()))

    return Table(display_name, (Part(step.size, (*_KEYS, *columns), load, bounds),), notes)


def _without_steps(metrics: Mapping[str, Points]) -> bool:
    """Whether every step is 0, though a metric was logged twice or more."""
    return any(points.step.size > 1 for points in metrics.values()) and not any(p.step.any() for p in metrics.values())


def _rows(metrics: Mapping[str, Points], *, counted: bool) -> tuple[dict[str, _Column], Values, Values]:
    """(the columns, the step of each row float64[rows], its time float64[rows])."""
    of_each = [np.arange(p.step.size, dtype=np.float64) if counted else p.step for p in metrics.values()]
    step = np.concatenate([np.zeros(0), *of_each])
    time = np.concatenate([np.zeros(0), *(points.time for points in metrics.values())])
    metric = np.repeat(np.arange(len(of_each)), [values.size for values in of_each])
    order = np.lexsort((step, time))
    step, time, metric = step[order], time[order], metric[order]
    group = np.cumsum(np.r_[np.zeros(min(step.size, 1), np.int64), step[1:] != step[:-1]])
    key = group * (step.size + 1) + _times_before(group, metric)
    _, first, row = np.unique(key, return_index=True, return_inverse=True)
    position = np.empty_like(row)
    position[order] = row
    ends = np.cumsum([values.size for values in of_each]).tolist()
    columns = {
        name: _Column(position[end - points.value.size : end], points.value)
        for (name, points), end in zip(metrics.items(), ends, strict=True)
    }
    return columns, step[first], time[first]


def _times_before(group: NDArray[np.int64], metric: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often the metric of each point stands before it in its group: int64[n]."""
    order = np.lexsort((metric, group))
    same = (group[order][1:] == group[order][:-1]) & (metric[order][1:] == metric[order][:-1])
    place = np.arange(order.size)
    began = np.maximum.accumulate(np.where(np.r_[True, ~same][: order.size], place, 0))
    times = np.empty_like(place)
    times[order] = place - began
    return times
