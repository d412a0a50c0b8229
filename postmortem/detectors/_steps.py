"""Row-to-row changes of a column, judged against the column's own recent changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import LINGERING, RECOVERED, Finding, onset_interval
from postmortem.detectors._rolling import hop_for, trailing_quantiles
from postmortem.detectors._screen import ScreenedColumn

Values = NDArray[np.float64]

JUMP_APART_ROWS = 50
"""Rows after a jump in which a further one is part of the same event."""

RETURN_ROWS = 1_000
"""Rows after a jump in which the column may come back from it."""


@dataclass(frozen=True, eq=False)
class Changes:
    """float64[n] each, in units of y: `change[i]` = y[i] - y[i - 1] (0 at row 0); `usual[i]` the larger of two 90 %
    quantiles over the rows before i (inf where there are too few): of |change|, and of |change| per step, for as many
    steps as row i is away.

    The second counts where the cadence changes: a row that is 50 steps away from the one before has changed more than
    one that is one step away, and nothing happened."""

    change: Values
    usual: Values


def changes(y: Values, step: NDArray[np.int64], window: int = 64, min_rows: int = 8) -> Changes:
    """Changes of finite values y float64[n], logged at ascending steps int64[n], and what was usual in the `window`
    rows before each."""
    change = np.diff(y, prepend=y[:1])
    steps_apart = np.maximum(np.diff(step, prepend=step[:1]), 1)
    hop = hop_for(y.size)

    def usual(size: Values) -> Values:
        quantile = trailing_quantiles(size, window, hop, (0.9,), min_rows)[0]
        return np.repeat(np.where(np.isnan(quantile), np.inf, quantile), hop)[: y.size]

    return Changes(change, np.maximum(usual(np.abs(change)), usual(np.abs(change) / steps_apart) * steps_apart))


def runs(rows: NDArray[np.intp], apart: int) -> list[NDArray[np.intp]]:
    """Split sorted rows where two neighbors are more than `apart` rows from each other."""
    return np.split(rows, np.flatnonzero(np.diff(rows) > apart) + 1) if rows.size else []


def first_jumps(is_jump: NDArray[np.bool_]) -> Iterator[int]:
    """The rows of bool[n] that jump, without those within JUMP_APART_ROWS of the last one that counts."""
    last = -JUMP_APART_ROWS
    for row in np.flatnonzero(is_jump).tolist():
        if row - last >= JUMP_APART_ROWS:
            last = row
            yield row


def jump_finding(
    s: ScreenedColumn,
    row: int,
    change: float,
    *,
    detector: str,
    kind: str,
    usual: float,
    score: float,
    is_back: NDArray[np.bool_],
    settled: float | None = None,
) -> Finding:
    """The finding of a jump by `change` (log units) of a positive column at `row`.

    `usual` is a usual change, in log units; `is_back` says of the rows from `row` on whether the column is back where
    it was; `settled` is in the column's own units.
    """
    back = np.flatnonzero(is_back)
    return Finding(
        detector=detector,
        kind=kind,
        column=s.name,
        onset_step=int(s.step[row]),
        onset_interval=onset_interval(s.step, row),
        peak_step=int(s.step[row]),
        recovery_step=int(s.step[row + int(back[0])]) if back.size else None,
        peak=float(s.raw[row]),
        baseline=float(s.raw[row - 1]),
        scale=usual * float(s.raw[row - 1]),
        score=score,
        settled=settled,
        outcome=RECOVERED if back.size else LINGERING,
        figures={"ratio": float(np.exp(change)), "height": abs(change)},
    )
