"""The loss watchdog, a separate mode: a loss that stays high for a while, and the step to roll back to.

It differs from the simple rule that it comes from (5 times the minimum over 100 steps): the baseline is a trailing
median, because one easy batch lowers the minimum and raises the alarm for hundreds of steps; a NaN or Inf counts as
high, because `nan > x` is false and would end the stretch; step 0 is a step; a stretch is counted in rows and in steps,
because many logs have every 10th step only; and the rollback goes to a checkpoint that exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._excursion import LOSS_KINDS
from postmortem.detectors._model import DIVERGED, RECOVERED, UNRESOLVED, Detector, Finding, Telemetry, onset_interval
from postmortem.detectors._rolling import hop_for, trailing_quantiles
from postmortem.detectors._steps import runs
from postmortem.detectors.non_finite import KINDS as NON_FINITE_KINDS
from postmortem.series import Series

DETECTOR_NAME = "watchdog"


def watchdog(checkpoints: Sequence[int] = ()) -> Detector:
    """The watchdog with its default settings, as a detector."""
    return Detector(DETECTOR_NAME, (*LOSS_KINDS, *NON_FINITE_KINDS), Watchdog(checkpoints=checkpoints).detect)


@dataclass(frozen=True)
class Watchdog:
    """A loss above `ratio` times the median of the last `history` finite rows, for `sustain` rows and as many steps.

    A baseline needs `min_rows` rows. (5 times the minimum over 100 steps would miss a worked example of 2.53 times over
    48 steps.) The rollback goes to a checkpoint at least `margin` steps before the onset (PaLM: about 100), and `skip`
    batches after it are skipped (PaLM: 200 to 500). `checkpoints` are the steps that have a checkpoint.
    """

    ratio: float = 1.25
    sustain: int = 10
    history: int = 1_000
    min_rows: int = 100
    margin: int = 100
    skip: int = 200
    checkpoints: Sequence[int] = ()

    def detect(self, t: Telemetry) -> Iterator[Finding]:
        """One finding per sustained excursion; its `figures` are rollback_to_step, skip_batches and rows."""
        loss = t.series("loss")
        if loss is None or len(loss) <= self.min_rows:
            return
        base = self._baseline(loss)
        above = ~(loss.value <= base + (self.ratio - 1) * np.abs(base)) & np.isfinite(base)
        for run in runs(np.flatnonzero(above), apart=1):
            first, last = int(run[0]), int(run[-1])
            if run.size >= self.sustain and int(loss.step[last] - loss.step[first]) + 1 >= self.sustain:
                yield self._finding(loss, base, first, last)

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

    def _finding(self, loss: Series, base: NDArray[np.float64], first: int, last: int) -> Finding:
        back = last + 1 < len(loss)
        values = loss.value[first : last + 1]
        finite = np.isfinite(values)
        peak = first + int(np.argmax(np.where(finite, values, np.inf)))
        level = float(base[first])
        rollback = self.rollback_step(int(loss.step[first]))
        figures = {"rows": float(values.size), "skip_batches": float(self.skip), "height": float(values.size) / 100}
        if rollback is not None:
            figures["rollback_to_step"] = float(rollback)
        return Finding(
            detector=DETECTOR_NAME,
            kind="loss_spike" if finite.all() else "non_finite",
            column=loss.name,
            onset_step=int(loss.step[first]),
            onset_interval=onset_interval(loss.step, first),
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
