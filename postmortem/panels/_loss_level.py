"""Measures changes of the loss's level that no learning makes: a step down that stays, and a sum instead of a mean.

A loss that is summed over a batch is its mean times what the batch contains. So the factor of such a change is a number
that the log has: tokens, labels, samples, micro-batches or ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from postmortem.case import Case, Observation
from postmortem.detectors import BATCH_SIZES
from postmortem.panels._measuring import grouped
from postmortem.panels._settings import where
from postmortem.series import Series
from postmortem.stats import median, robust_sigma
from postmortem.text import number, times

SIDE_ROWS, LEAST_ROWS = 20, 8
"""Rows on either side of the onset that are compared, and the fewest."""

LEAST_FACTOR, SAME = 4.0, 0.05
"""A factor of less than 4 is the number of something too easily; one within 5 % of a number of the log is that number:
of all factors up to a million, 4 % are so close to one of five."""

STEADY = 3.0
"""The noise of the loss, in log units, is at most three times that before: what blows up is no other unit."""


def level_changes(case: Case) -> Iterator[Observation]:
    """One observation for each change of the level."""
    for f in case.incident.findings:
        if f.kind == "level_drop":
            rate = "" if case.series("lr") is not None else " (or a lower rate does so at once: lr is not logged)"
            levels = f"from {number(f.baseline)} to {number(f.settled or f.peak)} ({times(f.figures['ratio'])})"
            how = f"at once {where(case, f)}, and stays there: learning lowers it along a curve{rate}"
            yield Observation(
                "loss.falls_for_good", f"the loss falls {levels} {how}", "loss", f.onset_step, dict(f.figures)
            )
    yield from _other_reduction(case)


def _other_reduction(case: Case) -> Iterator[Observation]:
    """That the loss is a number of the batch times what it was, or what it was divided by that number."""
    onset = next((f.onset_step for f in case.incident.findings if f.column == "loss"), None)
    change = None if onset is None else _factor(case.series("loss"), onset)
    if onset is None or change is None or not max(change, 1 / change) >= LEAST_FACTOR:
        return
    factor, sizes = max(change, 1 / change), _batch_sizes(case, onset)
    match = min(sizes, key=lambda name: abs(np.log(factor / sizes[name])), default=None)
    if match is None or abs(np.log(factor / sizes[match])) > SAME:
        return
    norm = _factor(case.series("grad_norm"), onset, steady=False)
    scaled = norm is not None and abs(np.log(norm / change)) < abs(np.log(norm))
    gradient = "" if norm is None else f"; grad_norm {'changes with it' if scaled else 'does not'} ({times(norm)})"
    kinds = ("a mean", "a sum") if change > 1 else ("a sum", "a mean")
    text = (
        f"the loss is {times(change)} its level before step {onset}, and stays there; {match} is "
        f"{grouped(sizes[match])}: {kinds[1]} over the batch instead of {kinds[0]}{gradient}"
    )
    figures = {"factor": change, "size": sizes[match], "grad_norm_factor": norm}
    yield Observation("loss.reduction_changed", text, "loss", onset, figures)


def _factor(series: Series | None, onset: int, *, steady: bool = True) -> float | None:
    """The level of a column after the onset over that before, by medians; None where it has too few rows, is not
    positive, or (`steady`) has another noise since then."""
    if series is None:
        return None
    row = int(np.searchsorted(series.step, onset))
    sides = series.value[max(row - SIDE_ROWS, 0) : row], series.value[row : row + SIDE_ROWS]
    if any(side.size < LEAST_ROWS or not np.isfinite(side).all() or side.min() <= 0 for side in sides):
        return None
    before, after = (np.log(side) for side in sides)
    if steady and robust_sigma(after) > STEADY * max(robust_sigma(before), SAME / STEADY):
        return None
    return float(np.exp(median(after) - median(before)))


def _batch_sizes(case: Case, onset: int) -> Mapping[str, float]:
    """What a batch around the onset contains, by column; the samples of a batch where the log lists them."""
    sizes: dict[str, float] = {}
    for name in BATCH_SIZES:
        series = case.series(name)
        near = np.empty(0) if series is None else series.window(onset - SIDE_ROWS * case.row_step, onset).value
        if near.size and np.isfinite(near).all():
            sizes[name] = float(median(near))
    if case.run.manifest.tokens_per_step:
        sizes.setdefault("tokens per step", float(case.run.manifest.tokens_per_step))
    samples = case.labels("sample_ids")
    ids = None if samples is None else samples.at(onset)
    if isinstance(ids, (list, tuple, np.ndarray)):
        sizes.setdefault("samples per batch", float(len(ids)))
    return {name: size for name, size in sizes.items() if size > 1}
