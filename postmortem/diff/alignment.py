"""Aligns two runs by the batches that they consumed: which batches both have, at which steps, and which only one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from postmortem.change import Window
from postmortem.diff.model import Alignment, Stretch
from postmortem.diff.pair import Matched, Pair, same_bits
from postmortem.run import Run
from postmortem.series import Steps

MOST = 20  # stretches and windows that are kept: two shuffles of one data set have as many as there are batches


def align_batches(pair: Pair) -> Alignment | None:
    """By batch hash, or by batch index where there is no hash; None where the logs have neither."""
    matched = pair.batches
    if matched is None:
        return None
    consumed = [_consumed(run, matched.by) for run in pair.runs]
    only_a, only_b = (_without(steps, common) for steps, common in zip(consumed, (matched.a, matched.b), strict=True))
    return Alignment(
        by=matched.by,
        matched=matched.a.size,
        moved=int((matched.a != matched.b).sum()),
        a_alone=only_a.size,
        b_alone=only_b.size,
        only_a=_windows(pair.a, only_a),
        only_b=_windows(pair.b, only_b),
        stretches=_stretches(matched),
        first_other=_first_different_loss(pair),
    )


def _consumed(run: Run, key: str) -> Steps:
    """The steps at which `run` logged the batch column `key`."""
    column = run.series(key) or run.labels(key)
    return np.zeros(0, np.int64) if column is None else column.step


def _without(steps: Steps, excluded: Steps) -> Steps:
    """The steps that are not among `excluded`."""
    return steps[~np.isin(steps, excluded, assume_unique=True)]


def _windows(run: Run, steps: Steps) -> tuple[Window, ...]:
    """The batches of `steps` as windows of their indices, or of the steps themselves where no index is logged."""
    index = run.series("batch_index")
    if index is not None and steps.size:
        rows = np.minimum(np.searchsorted(index.step, steps), len(index) - 1)
        if (index.step[rows] == steps).all():
            steps = np.unique(index.value[rows].astype(np.int64))
    if not steps.size:
        return ()
    begins, ends = _bounds(np.diff(steps) != 1)
    windows = [(int(first), int(last) + 1) for first, last in zip(steps[begins], steps[ends], strict=True)]
    return tuple(sorted(sorted(windows, key=lambda w: w[0] - w[1])[:MOST]))


def _stretches(matched: Matched) -> tuple[Stretch, ...]:
    """The longest stretches over which b is ahead or behind by the same number of steps, in order of a."""
    if not matched.a.size:
        return ()
    begins, ends = _bounds(np.diff(matched.b - matched.a) != 0)
    longest = np.sort(np.argsort(begins - ends, kind="stable")[:MOST])
    a, b = matched.a, matched.b
    return tuple(
        Stretch(int(a[i]), int(a[j]), int(b[i]), int(b[j]), int(j - i + 1))
        for i, j in zip(begins[longest], ends[longest], strict=True)
    )


def _bounds(breaks: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last position of each stretch of n rows; `breaks` bool[n − 1] is true between two stretches."""
    positions = np.flatnonzero(breaks)
    return np.append(0, positions + 1), np.append(positions, breaks.size)


def _first_different_loss(pair: Pair) -> tuple[int, int] | None:
    """Steps of a and b: the first batch that both consumed at which the bits of the loss differ."""
    curve = pair.by_batch("loss")
    if curve is None:
        return None
    differing = np.flatnonzero(~same_bits(curve.a, curve.b))
    return (int(curve.step_a[differing[0]]), int(curve.step_b[differing[0]])) if differing.size else None
