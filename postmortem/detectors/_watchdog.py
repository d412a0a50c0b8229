"""The loss watchdog, a separate mode: a loss that stays high for a while, and the step to roll back to.

It comes from a simple rule: 5 times the minimum of the last 1,000 rows, for 100 steps. `Watchdog(5.0, 100, 1_000)`, or
`draft --mode watchdog --ratio 5 --sustain 100 --history 1000`, has these values. What was wrong with the rule itself is
mended at any values:

- Its minimum contained the row that was judged, and one easy batch lowered it and raised the alarm for hundreds of
  rows. The baseline is the median of the rows before.
- It began to count with `start or step`, and step 0 is false, so that a stretch from step 0 was dated to step 1.
- `nan > x` is false, so that a NaN ended the stretch and was never reported. A value that is not finite counts as high,
  needs no baseline, and no `sustain` rows either if it lasts to the end of the log.
- It judged nothing before it had 1,000 rows. Here, a baseline needs `MIN_ROWS`, or `history` if that is less.
- It went back to a step, whether or not a checkpoint of that step exists, and counted the skipped batches from there:
  from an older checkpoint, they would have ended before the spike. The window lies around the onset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._excursion import LOSS_KINDS
from postmortem.detectors._model import DIVERGED, RECOVERED, UNRESOLVED, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._rolling import hop_for, trailing_quantiles
from postmortem.detectors._steps import runs
from postmortem.detectors.non_finite import KINDS as NON_FINITE_KINDS
from postmortem.series import Series

DETECTOR_NAME = "watchdog"
MIN_ROWS = 100
_OF_THE_UPDATE = ("grad_norm", "param_norm")  # columns that show whether the update of their step was sound
LEAST_HISTORY, MOST_HISTORY = 10, 10_000
"""Rows of a baseline: a median of fewer is noise; of more, it costs gigabytes in a long log."""


@dataclass(frozen=True)
class Watchdog:
    """A loss above `ratio` times the median of the last `history` finite rows, for `sustain` rows.

    (5 times for 100 rows would miss a worked example of 2.53 times over 48 steps.) The rollback goes to a checkpoint at
    least `margin` steps before the onset (PaLM: about 100), and `skip` batches are skipped, from `margin` steps before
    the onset on (PaLM: 200 to 500). `checkpoints` are the steps that have a checkpoint.

    Raises:
        ValueError: a value makes no sense; the message names it.
    """

    ratio: float = 1.25
    sustain: int = 10
    history: int = 1_000
    margin: int = 100
    skip: int = 200
    checkpoints: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 < self.ratio < math.inf:
            raise ValueError(f"ratio {self.ratio}: expected a number above 1, such as 1.25 or 5")
        if self.sustain < 1:
            raise ValueError(f"sustain {self.sustain}: expected a number of rows, 1 or more")
        if not LEAST_HISTORY <= self.history <= MOST_HISTORY:
            raise ValueError(
                f"history {self.history}: expected a number of rows between {LEAST_HISTORY} and {MOST_HISTORY:,}"
            )

    @property
    def detector(self) -> Detector:
        """The rule as a detector."""
        return Detector(DETECTOR_NAME, (*LOSS_KINDS, *NON_FINITE_KINDS), self.detect)

    @property
    def min_rows(self) -> int:
        """Finite rows that a baseline needs."""
        return min(self.history, MIN_ROWS)

    def detect(self, t: Telemetry) -> Iterator[Finding]:
        """One finding per sustained excursion; its `figures` are rollback_to_step, skip_batches and rows.

        The loss of step t is measured before update t. Where gradient or parameters show that the update before wrote
        the NaN of a loss, that update is the onset.
        """
        loss = t.series("loss")
        if loss is None:
            return
        base = self._baseline(loss)
        for first, last in self._stretches(loss, base):
            if last - first + 1 >= self.sustain or _to_the_end(loss, last):
                yield self._finding(t, loss, base, first, last)

    def closest(self, t: Telemetry) -> Closest | None:
        """How close the loss of a run comes to an incident; None where no loss is logged."""
        loss = t.series("loss")
        if loss is None or not len(loss):
            return None
        base = self._baseline(loss)
        ratio = 1 + (loss.value - base) / np.abs(base)
        judged = np.isfinite(ratio)
        worst = int(np.argmax(np.where(judged, ratio, -np.inf)))
        first, last = max(self._stretches(loss, base), key=lambda rows: rows[1] - rows[0], default=(0, -1))
        return Closest(
            rows=len(loss),
            judged=int(judged.sum()),
            ratio=float(ratio[worst]),
            step=int(loss.step[worst]),
            longest=last - first + 1,
            longest_from=int(loss.step[first]),
        )

    def rollback_step(self, onset: int) -> int | None:
        """The newest checkpoint at least `margin` steps before `onset`; None where no checkpoint is that old. The step
        itself where no checkpoints are given."""
        target = max(0, onset - self.margin)
        if not self.checkpoints:
            return target
        return max((c for c in self.checkpoints if c <= target), default=None)

    def _baseline(self, loss: Series) -> NDArray[np.float64]:
        """Trailing median of the finite rows before each row; NaN where there are fewer than `min_rows`."""
        finite = np.flatnonzero(np.isfinite(loss.value))
        base = np.full(len(loss), np.nan)
        if finite.size == 0:
            return base
        hop = max(hop_for(finite.size), 8)
        medians = trailing_quantiles(loss.value[finite], self.history, hop, (0.5,), self.min_rows)[0]
        base[finite] = np.repeat(medians, hop)[: finite.size]
        latest = np.maximum.accumulate(np.where(np.isfinite(loss.value), np.arange(len(loss)), -1))
        return np.where(latest >= 0, base[np.maximum(latest, 0)], np.nan)

    def _stretches(self, loss: Series, base: NDArray[np.float64]) -> list[tuple[int, int]]:
        """(first, last) row of every stretch of rows that are too high or not finite, of any length."""
        high = ~np.isfinite(loss.value) | (loss.value > base + (self.ratio - 1) * np.abs(base))
        return [(int(rows[0]), int(rows[-1])) for rows in runs(np.flatnonzero(high), apart=1)]

    def _finding(self, t: Telemetry, loss: Series, base: NDArray[np.float64], first: int, last: int) -> Finding:
        back = last + 1 < len(loss)
        values = loss.value[first : last + 1]
        finite = np.isfinite(values)
        peak = first + int(np.argmax(np.where(finite, values, np.inf)))
        onset = first - _written_by_the_update_before(t, loss, first)
        level = float(base[onset])
        rollback = self.rollback_step(int(loss.step[onset]))
        figures = {"rows": float(values.size), "skip_batches": float(self.skip), "height": float(values.size) / 100}
        if rollback is not None:
            figures["rollback_to_step"] = float(rollback)
        return Finding(
            detector=DETECTOR_NAME,
            kind="loss_spike" if finite.all() else "non_finite",
            column=loss.name,
            onset_step=int(loss.step[onset]),
            onset_interval=onset_interval(loss.step, onset),
            peak_step=int(loss.step[peak]),
            recovery_step=int(loss.step[last + 1]) if back else None,
            peak=float(loss.value[peak]),
            baseline=level,
            scale=(self.ratio - 1) * abs(level),
            score=float(loss.value[peak]) / level if level else float("inf"),
            settled=None,
            outcome=RECOVERED if back else DIVERGED if not finite[-1] else UNRESOLVED,
            figures=figures,
        )


Mode: TypeAlias = Literal["all", "watchdog"] | Watchdog
"""Which rules search a run: all detectors, the watchdog with its defaults, or a watchdog with other settings."""


def watchdog_of(mode: Mode) -> Watchdog | None:
    """The watchdog that `mode` asks for; None where all detectors search."""
    return None if mode == "all" else Watchdog() if mode == "watchdog" else mode


def watchdog_mode(
    name: Literal["all", "watchdog"], *, ratio: float | None, sustain: int | None, history: int | None
) -> Mode:
    """The mode `name`, with those settings of the watchdog that are not None.

    Raises:
        ValueError: a setting makes no sense, or is given without the watchdog; the message begins with its name.
    """
    settings: dict[str, Any] = {"ratio": ratio, "sustain": sustain, "history": history}
    given = {key: value for key, value in settings.items() if value is not None}
    if name == "watchdog":
        return Watchdog(**given)
    if given:
        raise ValueError(f"{next(iter(given))} is a setting of mode watchdog")
    return name


@dataclass(frozen=True)
class Closest:
    """How close a loss comes to an incident of the watchdog: `rows` of loss, of which `judged` have a baseline; the
    highest of these is `ratio` times its baseline, at `step`; the longest stretch above the rule's ratio, or of values
    that are not finite, has `longest` rows from step `longest_from` on."""

    rows: int
    judged: int
    ratio: float
    step: int
    longest: int
    longest_from: int


def _to_the_end(loss: Series, last: int) -> bool:
    """Whether a stretch that ends with row `last` is still not finite when the log ends."""
    return last == len(loss) - 1 and not math.isfinite(loss.value[last])


def _written_by_the_update_before(t: Telemetry, loss: Series, row: int) -> bool:
    """Whether a stretch that begins with `row` begins with a NaN or Inf that the update of the row before wrote: its
    gradient or parameters are not finite, too."""
    if math.isfinite(loss.value[row]) or row == 0:
        return False
    step = int(loss.step[row - 1])
    logged = [column.at(step) for name in _OF_THE_UPDATE if (column := t.series(name)) is not None]
    return not all(math.isfinite(value) for value in logged if value is not None)
