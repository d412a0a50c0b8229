"""The two runs by what they consumed: which batches both had and at which steps, and which one run alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from postmortem.change import Window
from postmortem.diff.model import Alignment, Stretch
from postmortem.diff.pair import Matched, Pair, same_bits
from postmortem.run import Run
from postmortem.series import Steps

MOST = 20  # stretches and windows that are kept: two shuffles of one data set have as many as batches


def alignment(pair: Pair) -> Alignment | None:
    """By batch hash, or by batch index where there is none; None where the logs hold neither."""
    matched = pair.batches
    if matched is None:
        return None
    consumed = [_consumed(run, matched.by) for run in pair.runs]
    lone = [_without(steps, met) for steps, met in zip(consumed, (matched.a, matched.b), strict=True)]
    return Alignment(
        by=matched.by,
        matched=matched.a.size,
        moved=int((matched.a != matched.b).sum()),
        a_alone=lone[0].size,
        b_alone=lone[1].size,
        only_a=_windows(pair.a, lone[0]),
        only_b=_windows(pair.b, lone[1]),
        stretches=_stretches(matched),
        first_other=_first_other(pair),
    )


def _consumed(run: Run, key: str) -> Steps:
    held = run.series(key) or run.labels(key)
    return np.zeros(0, np.int64) if held is None else held.step


def _without(steps: Steps, met: Steps) -> Steps:
    """The steps that are not among `met`."""
    return steps[~np.isin(steps, met, assume_unique=True)]


def _windows(run: Run, steps: Steps) -> tuple[Window, ...]:
    """The batches of `steps` as windows of their indices, or of the steps themselves where no index is logged."""
    index = run.series("batch_index")
    if index is not None and steps.size:
        at = np.minimum(np.searchsorted(index.step, steps), len(index) - 1)
        if (index.step[at] == steps).all():
            steps = np.unique(index.value[at].astype(np.int64))
    if not steps.size:
        return ()
    begins, ends = _runs(np.diff(steps) != 1)
    found = [(int(first), int(last) + 1) for first, last in zip(steps[begins], steps[ends], strict=True)]
    return tuple(sorted(sorted(found, key=lambda w: w[0] - w[1])[:MOST]))


def _stretches(matched: Matched) -> tuple[Stretch, ...]:
    """The longest stretches over which b is the same number of steps ahead or behind, in order of a."""
    if not matched.a.size:
        return ()
    begins, ends = _runs(np.diff(matched.b - matched.a) != 0)
    longest = np.sort(np.argsort(begins - ends, kind="stable")[:MOST])
    a, b = matched.a, matched.b
    return tuple(
        Stretch(int(a[i]), int(a[j]), int(b[i]), int(b[j]), int(j - i + 1))
        for i, j in zip(begins[longest], ends[longest], strict=True)
    )


def _runs(breaks: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last position of each run of rows, where bool[n − 1] says which neighbours belong to two."""
    at = np.flatnonzero(breaks)
    return np.append(0, at + 1), np.append(at, breaks.size)


def _first_other(pair: Pair) -> tuple[int, int] | None:
    """Steps of a and b: the first batch that both consumed at which the loss has other bits."""
    curve = pair.by_batch("loss")
    if curve is None:
        return None
    other = np.flatnonzero(~same_bits(curve.a, curve.b))
    return (int(curve.step_a[other[0]]), int(curve.step_b[other[0]])) if other.size else None
