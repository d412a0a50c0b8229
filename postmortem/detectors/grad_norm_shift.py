"""A gradient norm that steps to another level and stays: an accumulation factor or a batch size that changed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from postmortem.detectors._model import LINGERING, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._screen import Signal, signal
from postmortem.incident import Kind

NEAR_ROWS, FAR_ROWS, FIRST_ROW = 8, 40, 64
FACTOR_LOG = float(np.log(1.8))
SIGMAS = 5.0
"""The smallest factor a change of accumulation or world size makes is 2; 1.8 leaves room for noise. The step must show
between 8 rows before and 8 after, hold over 40 on either side, and exceed what the 40 rows before did among themselves
by 5 sigma. The first 64 rows, where every gradient norm falls steeply, are left out."""


def _find(t: Telemetry) -> Iterator[Finding]:
    series = t.series("grad_norm")
    s = signal(series) if series is not None else None
    if s is None or not s.log or s.y.size < FIRST_ROW + FAR_ROWS:
        return
    last = -FAR_ROWS
    for row in _candidates(s):
        if row - last < FAR_ROWS:
            continue
        f = _step(s, row)
        if f is not None:
            last = row
            yield f


def _candidates(s: Signal) -> list[int]:
    """Boundaries of 16-row blocks across which medians move, refined to the row of the largest change."""
    block = 16
    n = s.y.size // block * block
    medians = np.median(s.y[:n].reshape(-1, block), axis=1)
    moved = np.abs(medians[2:] - medians[:-2]) > 0.8 * FACTOR_LOG
    rows: list[int] = []
    for k in np.flatnonzero(moved).tolist():
        lo, hi = max((k + 1) * block - NEAR_ROWS, FIRST_ROW), min((k + 2) * block + NEAR_ROWS, n - NEAR_ROWS)
        if hi <= lo:
            continue
        gain = [abs(_median(s, r, r + NEAR_ROWS) - _median(s, r - NEAR_ROWS, r)) for r in range(lo, hi)]
        best = max(gain)
        flat = [lo + i for i, g in enumerate(gain) if g >= 0.9 * best]
        rows.append(max(flat, key=lambda r: abs(float(s.y[r] - s.y[r - 1]))))
    return rows


def _median(s: Signal, a: int, b: int) -> float:
    return float(np.median(s.y[max(a, 0) : b]))


def _step(s: Signal, row: int) -> Finding | None:
    before, after = s.y[row - FAR_ROWS : row], s.y[row : row + FAR_ROWS]
    if before.size < FAR_ROWS or after.size < FAR_ROWS:
        return None
    level, base = float(np.median(after)), float(np.median(before))
    rise = level - base
    if abs(rise) < FACTOR_LOG:
        return None
    sign = 1.0 if rise > 0 else -1.0
    sigma = max(1.4826 * float(np.median(np.abs(before - base))), 1e-3)
    near = sign * (_median(s, row, row + NEAR_ROWS) - _median(s, row - NEAR_ROWS, row))
    quarters = [sign * (float(np.median(q)) - base) for q in np.split(after, 4)]
    wander = max(abs(float(np.median(q)) - base) for q in np.split(before, 4))
    sharp = sign * float(s.y[row] - s.y[row - 1]) >= 0.5 * abs(rise)
    if not (sharp and near >= 0.8 * abs(rise) and min(quarters) >= 0.7 * abs(rise) and wander <= 0.3 * abs(rise)):
        return None
    if abs(rise) < SIGMAS * sigma:
        return None
    return Finding(
        detector="grad_norm_shift",
        kind="grad_norm_shift",
        column=s.name,
        onset_step=int(s.step[row]),
        onset_interval=onset_interval(s.step, row),
        peak_step=int(s.step[row]),
        recovery_step=None,
        peak=float(s.raw[row]),
        baseline=s.back(base),
        scale=sigma * s.back(base),
        score=abs(rise) / sigma,
        settled=s.back(level),
        outcome=LINGERING,
        figures={"height": rise, "ratio": float(np.exp(rise))},
    )


KIND = Kind("grad_norm_shift", "gradient-norm shift")

DETECTOR = Detector("grad_norm_shift", (KIND,), _find)
