"""A loss that was logged and goes blank, or exactly zero, while the run goes on: several loggers write NaN that way.

Where the gradient norm stays finite all the while, it may as well be the logger: such a stretch is unresolved.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from postmortem.detectors._model import DIVERGED, RECOVERED, UNRESOLVED, Detector, Finding, Telemetry
from postmortem.incident import Kind, Outcome
from postmortem.series import Series

LEAST_ROWS, TIMES, LEAST_RATE = 10, 5.0, 0.5
"""Blank rows that make a gap: at least 10, five times the widest usual gap (99 % quantile), and coming at half the rate
(rows per step) at which losses came before, so that evaluation rows after the last training row do not count."""


ZERO_ROWS, PAST_ROWS = 3, 12
"""A positive loss that is exactly zero in its last 3 rows or more, after 12 or more that were not."""


def _find(t: Telemetry) -> Iterator[Finding]:
    loss = t.series("loss")
    if loss is None or len(loss) < 2:
        return
    yield from _zero(t, loss)
    if t.row_steps.size - len(loss) >= LEAST_ROWS:
        yield from _blank(t, loss)


def _zero(t: Telemetry, loss: Series) -> Iterator[Finding]:
    (others,) = np.nonzero(loss.value)
    first = int(others[-1]) + 1 if others.size else 0
    past = loss.value[max(first - 50, 0) : first]
    if first < PAST_ROWS or len(loss) - first < ZERO_ROWS or not (past > 0).all():
        return
    baseline = float(np.median(past))
    if past[-1] < 0.01 * baseline:  # it went there by itself
        return
    onset, last = int(loss.step[first]), int(loss.step[first - 1])
    outcome = UNRESOLVED if _calm(t, onset, int(loss.step[-1])) else DIVERGED
    yield _finding((last, onset), None, baseline, None, outcome, {"zeros": float(len(loss) - first)})


def _calm(t: Telemetry, first: int, last: int) -> bool:
    """Whether the gradient norm was logged in the stretch, and finite in all of it."""
    norm = t.series("grad_norm")
    inside = None if norm is None else norm.window(first, last + 1)
    return inside is not None and len(inside) >= ZERO_ROWS and bool(np.isfinite(inside.value).all())


def _finding(
    between: tuple[int, int],
    back: int | None,
    baseline: float,
    settled: float | None,
    outcome: Outcome,
    figures: dict[str, float],
) -> Finding:
    """`between`: the last step with a loss, and the first without."""
    last, onset = between
    return Finding(
        detector="suspected_non_finite",
        kind="suspected_non_finite",
        column="loss",
        onset_step=onset,
        onset_interval=None if onset - last <= 1 else between,
        peak_step=onset,
        recovery_step=back,
        peak=float("nan"),
        baseline=baseline,
        scale=float("nan"),
        score=float("inf"),
        settled=settled,
        outcome=outcome,
        suspected=True,
        figures=figures,
    )


def _blank(t: Telemetry, loss: Series) -> Iterator[Finding]:
    rows = np.searchsorted(t.row_steps, loss.step)
    blank = np.diff(np.append(rows, t.row_steps.size)) - 1
    usual = float(np.quantile(blank[:-1], 0.99)) if blank.size > 1 else 0.0
    for i in np.flatnonzero(blank >= max(LEAST_ROWS, TIMES * (usual + 1))).tolist():
        first = int(rows[i]) + 1
        end = int(rows[i]) + 1 + int(blank[i])
        if not _goes_on(t, loss.step[: i + 1], first, end):
            continue
        back = i + 1 < len(loss)
        past = loss.value[max(i - 49, 0) : i + 1]
        finite = past[np.isfinite(past)]
        if not finite.size or not np.isfinite(loss.value[i]):
            continue
        onset, last = int(t.row_steps[first]), int(loss.step[i])
        calm = not back and _calm(t, onset, int(t.row_steps[-1]))
        yield _finding(
            (last, onset),
            int(loss.step[i + 1]) if back else None,
            float(np.median(finite)),
            float(np.median(loss.value[i + 1 : i + 21])) if back else None,
            RECOVERED if back else UNRESOLVED if calm else DIVERGED,
            {"rows": float(blank[i])},
        )


def _goes_on(t: Telemetry, logged: np.ndarray[tuple[int], np.dtype[np.int64]], first: int, end: int) -> bool:
    recent = logged[-100:]
    if recent.size < 2:
        return True
    before = (recent.size - 1) / max(int(recent[-1] - recent[0]), 1)
    after = (end - first) / max(int(t.row_steps[end - 1] - recent[-1]), 1)
    return after >= LEAST_RATE * before


KIND = Kind("suspected_non_finite", "suspected non-finite loss", "fatal", "loss")

DETECTOR = Detector("suspected_non_finite", (KIND,), _find)
