"""A loss that was logged and goes blank while the run goes on writing rows: several loggers write NaN that way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from postmortem.detectors._model import DIVERGED, RECOVERED, Detector, Finding, Telemetry

LEAST_ROWS, TIMES, LEAST_RATE = 10, 5.0, 0.5
"""Blank rows that make a gap: at least 10, five times the widest usual gap (99 % quantile), and coming at half the rate
(rows per step) at which losses came before, so that evaluation rows after the last training row do not count."""


def _find(t: Telemetry) -> Iterator[Finding]:
    loss = t.series("loss")
    if loss is None or len(loss) < 2 or t.row_steps.size - len(loss) < LEAST_ROWS:
        return
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
        yield Finding(
            detector="suspected_non_finite",
            kind="suspected_non_finite",
            column="loss",
            onset_step=onset,
            onset_interval=None if onset - last <= 1 else (last, onset),
            peak_step=onset,
            recovery_step=int(loss.step[i + 1]) if back else None,
            peak=float("nan"),
            baseline=float(np.median(finite)),
            scale=float("nan"),
            score=float("inf"),
            settled=float(np.median(loss.value[i + 1 : i + 21])) if back else None,
            outcome=RECOVERED if back else DIVERGED,
            suspected=True,
            figures={"rows": float(blank[i])},
        )


def _goes_on(t: Telemetry, logged: np.ndarray[tuple[int], np.dtype[np.int64]], first: int, end: int) -> bool:
    recent = logged[-100:]
    if recent.size < 2:
        return True
    before = (recent.size - 1) / max(int(recent[-1] - recent[0]), 1)
    after = (end - first) / max(int(t.row_steps[end - 1] - recent[-1]), 1)
    return after >= LEAST_RATE * before


DETECTOR = Detector("suspected_non_finite", ("suspected_non_finite",), _find)
