"""What became of the incident in a replay: cured, there again, or elsewhere.

*Cured*: no incident within 50 steps of where the suspect data or step now falls, and the area of the loss above its
band is at most a tenth of the null replay's. The band is measured: the scatter of the loss before the incident, and how
far null replays and replays with meaningless noise lie apart where bits cannot be had.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from postmortem.detectors import DetectedIncident
from postmortem.diagnosis import Incident
from postmortem.pipeline import detect
from postmortem.run import Run
from postmortem.series import Series
from postmortem.stats import noise_sigma

NEAR = 50  # steps after the suspect data or step in which an incident is still its own
_FARTHEST_PEAK = 100  # steps: a peak further off is a consequence, and not needed to see the incident
SHARE = 0.1  # of R0's excess that a cured replay may keep
PAST_ROWS = 100  # rows before the incident that say how far the loss scatters
LEVEL_ROWS = 25  # rows before it that say where the loss is: early in a training it is nowhere for long
EARLIER = 10  # steps by which an incident of the replay may seem to begin before the place asked about
SIGMAS = 3.0


@dataclass(frozen=True)
class OutcomeJudge:
    """What replays of one incident are measured by.

    first: the first step at which the incident may show. onset: where it began in the run. level, band: of the loss
    before it, nats. excess: area of R0's loss above level + band through NEAR steps, nats·steps; infinite where it is
    not finite. of_rate: the incident is a jump of the learning rate and nothing else.
    """

    first: int
    onset: int
    level: float
    band: float
    excess: float = 0.0
    of_rate: bool = False

    @classmethod
    def of(cls, run: Run, incident: Incident, first: int) -> OutcomeJudge:
        """Read off the run's loss before the incident."""
        loss = run.series("loss", attempt=incident.lineage)
        past = np.zeros(0) if loss is None else loss.window(0, incident.onset_step).value[-PAST_ROWS:]
        past = past[np.isfinite(past)]
        if past.size < 2:
            return cls(first, incident.onset_step, float("nan"), float("nan"), of_rate=_of_rate(incident))
        level = float(np.median(past[-LEVEL_ROWS:]))
        return cls(first, incident.onset_step, level, SIGMAS * noise_sigma(past), of_rate=_of_rate(incident))

    def widened(self, spread: float) -> OutcomeJudge:
        """With a band of at least the measured spread of null replays, nats."""
        return replace(self, band=max(self.band, spread))

    def measured(self, run: Run, attempt: int | None = None) -> OutcomeJudge:
        """With the excess of the null replay `run`, or of the run itself as `attempt` saw it."""
        return replace(self, excess=self.area(run, self.onset + NEAR, attempt))

    def incident(self, run: Run, first: int, last: int, started: int | None) -> DetectedIncident | None:
        """The first incident of a replay in [first, last] that counts as this one, see `first_incident`."""
        return first_incident(run, first, last, started, of_rate=self.of_rate)

    @property
    def measurable(self) -> bool:
        """Whether R0 has an excess that others can be compared with: more than noise."""
        return self.excess > max(self.band, 1e-6) or not np.isfinite(self.excess)

    def area(self, run: Run, last: int, attempt: int | None = None) -> float:
        """Area of the loss above the band over [first, last], nats·steps; infinite where a loss is not finite."""
        loss = run.series("loss", attempt=attempt)
        if loss is None or not np.isfinite(self.level):
            return 0.0 if loss is None or bool(np.isfinite(_inside(loss, self.first, last)).all()) else float("inf")
        value = _inside(loss, self.first, last)
        if not np.isfinite(value).all():
            return float("inf")
        return float(np.maximum(value - self.level - self.band, 0.0).sum())


@dataclass(frozen=True)
class JudgedReplay:
    """What a replay showed: the incident within NEAR steps of the place asked about, None where there was none;
    `excess` is its area's share of R0's, None where R0 had none to compare with. `finite`: R0's loss was not finite,
    and this one is."""

    found: DetectedIncident | None
    excess: float | None
    finite: bool

    @property
    def cured(self) -> bool:
        """No incident, and hardly any excess."""
        return self.found is None and (self.excess is None or self.excess <= SHARE)

    @property
    def outcome(self) -> Literal["cured", "finite", "persists"]:
        """What became of the incident where it was."""
        return "cured" if self.cured else "finite" if self.finite else "persists"

    @property
    def text(self) -> str:
        """What was seen, in words."""
        what = "no incident" if self.found is None else f"{self.found.title} at step {self.found.onset_step}"
        return what if self.excess is None else f"{what}, excess loss {100 * self.excess:.3g} % of R0's"


def judge_replay(judge: OutcomeJudge, run: Run, started: int, falls_at: int | None = None) -> JudgedReplay:
    """What the replay `run`, driven from step `started` on, shows around the incident, or around the step at which the
    data falls now."""
    at = judge.onset if falls_at is None else falls_at
    first = judge.first if falls_at is None else falls_at - 1
    found = judge.incident(run, first, at + NEAR, started if started != judge.onset else None)
    if not judge.measurable:
        return JudgedReplay(found, None, finite=False)
    area = replace(judge, first=first).area(run, at + NEAR)
    share = 1.0 if np.isinf(area) else 0.0 if np.isinf(judge.excess) else area / judge.excess
    return JudgedReplay(found, share, finite=np.isinf(judge.excess) and not np.isinf(area))


def last_of(incident: Incident) -> int:
    """The last step that is needed to see an incident: its peak, or what comes first if that is far off."""
    return min(incident.peak_step, incident.onset_step + _FARTHEST_PEAK)


def reappeared(run: Run, incident: Incident) -> DetectedIncident | None:
    """The incident itself, where a null replay shows it once more; what else lies near it is another."""
    last = last_of(incident) + EARLIER
    return first_incident(run, incident.onset_step - EARLIER, last, of_rate=_of_rate(incident))


def first_incident(
    run: Run, first: int, last: int, started: int | None = None, *, of_rate: bool = False
) -> DetectedIncident | None:
    """The first incident of the effective history whose onset lies in [first, last], or that seems to begin earlier
    and is worst there: where the rows end soon after, a detector may take it and what came before it for one.

    A jump of the learning rate alone is what was done to the training, and nothing that became of it: it counts only
    where the incident in question is no more than that (`of_rate`), and never at `started`, the step that a changed
    replay started from.
    """
    own = [one for one in detect(run) if not one.discarded and one.onset_step <= last]
    found = [one for one in own if one.onset_step >= first or first < one.peak_step <= last]
    jumps = [one for one in found if {f.kind for f in one.findings} == {"lr_discontinuity"}]
    found = [one for one in found if one not in jumps or (of_rate and one.onset_step != started)]
    return min(found, key=lambda one: one.onset_step, default=None)


def step_of_batch(run: Run, index: int) -> int | None:
    """The step of the effective history that consumed the batch of that index."""
    column = run.series("batch_index")
    at = np.flatnonzero(column.value == index) if column is not None else np.zeros(0, np.int64)
    return int(column.step[at[-1]]) if column is not None and at.size else None


def spread(runs: Iterable[Run], first: int) -> float:
    """How far replays that should be alike lie apart: the 95th percentile of the largest difference of the loss, step
    by step from `first` on, nats; 0 for fewer than two."""
    curves = [loss for run in runs if (loss := run.series("loss")) is not None]
    if len(curves) < 2:
        return 0.0
    steps = curves[0].window(first, 2**62).step
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.step)
    if not steps.size:
        return 0.0
    values = np.stack([curve.value[np.searchsorted(curve.step, steps)] for curve in curves])
    apart = values.max(0) - values.min(0)
    apart = apart[np.isfinite(apart)]
    return float(np.percentile(apart, 95)) if apart.size else 0.0


def _of_rate(incident: Incident) -> bool:
    return {signal.kind for signal in incident.signals} == {"lr_discontinuity"}


def _inside(loss: Series, first: int, last: int) -> np.ndarray:
    return loss.window(first, last + 1).value
