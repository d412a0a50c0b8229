"""Ranks that should agree and do not: parameters or a loss scale that differ, or one rank's loss that departs alone.

Each rank has its own batch, so that their losses differ at all times. Where parameters are sharded, their hashes differ
at all times, too. So only ranks that agreed once can begin to differ, and a loss is compared with those of the others
in the same step, against how far they usually are apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._excursion import Excursion, excursions
from postmortem.detectors._model import DIVERGED, RECOVERED, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._screen import Rule, ScreenedColumn
from postmortem.incident import Kind, Outcome
from postmortem.stats import median

AGREED_ROWS = 3
"""Rows in which all ranks agreed at first."""

RULE = Rule(sigmas=10.0, floor=0.4, opening=0.4)
"""The loss of one rank is half as high again as those of the others, and by 10 sigmas of what is usual between them."""

ALONE_ROWS = 5
"""Rows in which it is: a rank alone for fewer rows had a hard batch, and supports an incident only."""

KIND = Kind("rank_difference", "difference between ranks", "cause", "nothing")

Steps = NDArray[np.int64]
Objects = NDArray[np.object_]


def _detect(t: Telemetry) -> Iterator[Finding]:
    if len(t.ranks) < 2:
        return
    for name in ("param_hash", "loss_scale"):
        yield from _differing(name, _per_rank(t, name))
    yield from _departing(_per_rank(t, "loss"))


def _per_rank(t: Telemetry, name: str) -> dict[int, tuple[Steps, Objects]]:
    """Rank → steps and values of a column that this rank logged, without rows that were not logged."""
    logged_by: dict[int, tuple[Steps, Objects]] = {}
    for rank in t.ranks:
        column = f"{name}/rank{rank}"
        series = t.series(column)
        labels = t.labels(column) if series is None else (series.step, series.value.astype(object))
        if labels is not None:
            logged = np.array([value is not None for value in labels[1]], dtype=bool)
            logged_by[rank] = labels[0][logged], labels[1][logged]
    return logged_by


def _common_steps(ranks: Mapping[int, tuple[Steps, Objects]]) -> tuple[Steps, list[Objects]]:
    """The steps that all ranks logged, and the values of each rank there."""
    common = next(iter(ranks.values()))[0]
    for steps, _ in ranks.values():
        common = np.intersect1d(common, steps, assume_unique=True)
    return common, [values[np.searchsorted(steps, common)] for steps, values in ranks.values()]


def _differing(name: str, ranks: Mapping[int, tuple[Steps, Objects]]) -> Iterator[Finding]:
    """The row from which on ranks that agreed at first differ."""
    if len(ranks) < 2:
        return
    step, values = _common_steps(ranks)
    differs = np.array([other != values[0] for other in values[1:]], dtype=bool)
    rows = np.flatnonzero(differs.any(axis=0))
    if not rows.size or rows[0] < AGREED_ROWS:
        return
    first, last = int(rows[0]), int(rows[-1])
    lasts = last == step.size - 1
    rank = list(ranks)[1 + int(np.argmax(differs[:, first]))]
    yield _finding(
        f"{name}/rank{rank}",
        step,
        first=first,
        peak=first,
        back=None if lasts else last + 1,
        outcome=DIVERGED if lasts else RECOVERED,
        figures={
            "rank": float(rank),
            "other_rank": float(next(iter(ranks))),
            "rows": float(rows.size),
            "ranks": len(ranks),
        },
    )


def _departing(ranks: Mapping[int, tuple[Steps, Objects]]) -> Iterator[Finding]:
    """Where the loss of one rank departs from those of the others."""
    if len(ranks) < 2:
        return
    step, objects = _common_steps(ranks)
    loss = np.array(objects, dtype=np.float64)
    usable = np.isfinite(loss).all(axis=0) & (loss > 0).all(axis=0)
    step, y = step[usable], np.log(loss[:, usable])
    if step.size < 2:
        return
    for i, rank in enumerate(ranks):
        beyond = y[i] - median(np.delete(y, i, axis=0), axis=0)
        if not np.ptp(beyond):
            continue
        s = ScreenedColumn(f"loss/rank{rank}", step, loss[i, usable], beyond, True, 1.0, 1.0)
        for e in excursions(s, RULE):
            yield _departure(s, e, rank, len(ranks))


def _departure(s: ScreenedColumn, e: Excursion, rank: int, ranks: int) -> Finding:
    peak, end = e.onset + e.course.peak, e.onset + e.course.end
    height = float(s.y[peak]) - e.center
    return _finding(
        s.name,
        s.step,
        first=e.onset,
        peak=peak,
        back=end if end < s.step.size else None,
        outcome=e.course.outcome,
        figures={"rank": float(rank), "ranks": ranks, "rows": float(e.course.end), "ratio": float(np.exp(height))},
        opens=e.course.end >= ALONE_ROWS,
    )


def _finding(
    column: str,
    step: Steps,
    *,
    first: int,
    peak: int,
    back: int | None,
    outcome: Outcome,
    figures: dict[str, float],
    opens: bool = True,
) -> Finding:
    return Finding(
        detector="rank_difference",
        kind=KIND.slug,
        column=column,
        onset_step=int(step[first]),
        onset_interval=onset_interval(step, first),
        peak_step=int(step[peak]),
        recovery_step=None if back is None else int(step[back]),
        peak=float("nan"),
        baseline=float("nan"),
        scale=0.0,
        score=float("inf"),
        settled=None,
        outcome=outcome,
        figures=figures,
        opens=opens,
    )


DETECTOR = Detector(
    "rank_difference", (KIND,), _detect, no_stream="A live loop is one rank, and does not see the rows of the others."
)
