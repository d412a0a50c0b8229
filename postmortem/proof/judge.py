"""Judges what became of the incident in a replay: cured, still there, or moved.

*Cured*: no incident within 50 steps of the place where the suspect data or step is now, the area of the loss above its
band is at most a tenth of the null replay's, and the state at the end is finite, because a NaN that no batch has read
does not show in the loss. The band is measured: the scatter of the loss before the incident, and where equal bits are
not possible, the differences between null replays and replays with meaningless noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from postmortem.assess.detection import detect_effective
from postmortem.checkpoint.inspection import nonfinite_text
from postmortem.detectors import DetectedIncident
from postmortem.diagnosis import Incident
from postmortem.run import Run
from postmortem.series import Series
from postmortem.stats import noise_sigma

NEAR = 50  # an incident up to so many steps after the suspect data or step is attributed to it
MAX_PEAK_DISTANCE = 100  # steps: a peak after these is a consequence, and not needed to see the incident
CURED_SHARE = 0.1  # of R0's excess; a cured replay has at most so much
PAST_ROWS = 100  # rows before the incident from which the scatter of the loss is measured
LEVEL_ROWS = 25  # rows before it from which the level of the loss is measured: few, because it falls fast early on
EARLY_STEPS = 10  # steps by which an incident in a replay may seem to begin too early
SIGMAS = 3.0


@dataclass(frozen=True)
class OutcomeJudge:
    """Judges the replays of one incident.

    first: the first step at which the incident may appear. onset: where it began in the run. level, band: of the loss
    before it, nats. excess: area of R0's loss above level + band through NEAR steps, nats·steps; infinite if a loss is
    not finite. rate_jump_only: the incident is a jump of the learning rate and nothing else.
    """

    first: int
    onset: int
    level: float
    band: float
    excess: float = 0.0
    rate_jump_only: bool = False

    @classmethod
    def of(cls, run: Run, incident: Incident, first: int) -> OutcomeJudge:
        """Measure level and band in the run's loss before the incident."""
        loss = run.series("loss", attempt=incident.lineage)
        past = np.zeros(0) if loss is None else loss.window(0, incident.onset_step).value[-PAST_ROWS:]
        past = past[np.isfinite(past)]
        if past.size < 2:
            return cls(
                first, incident.onset_step, float("nan"), float("nan"), rate_jump_only=_is_rate_jump_only(incident)
            )
        level = float(np.median(past[-LEVEL_ROWS:]))
        return cls(
            first, incident.onset_step, level, SIGMAS * noise_sigma(past), rate_jump_only=_is_rate_jump_only(incident)
        )

    def with_band(self, least: float) -> OutcomeJudge:
        """The same with a band of at least `least`, which was measured between null replays, nats."""
        return replace(self, band=max(self.band, least))

    def with_reference_excess(self, run: Run, attempt: int | None = None) -> OutcomeJudge:
        """The same with the excess of the null replay `run` as the reference, or of the run itself as `attempt` saw
        it."""
        return replace(self, excess=self.excess_area(run, self.onset + NEAR, attempt))

    def find_incident(self, run: Run, first: int, last: int, replay_start: int | None) -> DetectedIncident | None:
        """The first incident of a replay in [first, last] that counts as this one, see `find_first_incident`."""
        return find_first_incident(run, first, last, replay_start, rate_jump_only=self.rate_jump_only)

    @property
    def has_reference_excess(self) -> bool:
        """Whether the reference has an excess above noise, so that other replays can be compared with it."""
        return self.excess > max(self.band, 1e-6) or not np.isfinite(self.excess)

    def excess_area(self, run: Run, last: int, attempt: int | None = None) -> float:
        """Area of the loss above the band over [first, last], nats·steps; infinite if a loss is not finite."""
        loss = run.series("loss", attempt=attempt)
        if loss is None or not np.isfinite(self.level):
            return (
                0.0 if loss is None or bool(np.isfinite(_loss_values(loss, self.first, last)).all()) else float("inf")
            )
        value = _loss_values(loss, self.first, last)
        if not np.isfinite(value).all():
            return float("inf")
        return float(np.maximum(value - self.level - self.band, 0.0).sum())


@dataclass(frozen=True)
class JudgedReplay:
    """What a replay shows. incident: within NEAR steps of the judged place, None if there is none. excess: the share of
    R0's excess area, None if R0 has none to compare with. finite: R0's loss is not finite, and this one is. nonfinite:
    tensor → number of NaN and infinite elements in the state at the end."""

    incident: DetectedIncident | None
    excess: float | None
    finite: bool
    nonfinite: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def cured(self) -> bool:
        """No incident, hardly any excess, and a finite state."""
        no_excess = self.excess is None or self.excess <= CURED_SHARE
        return self.incident is None and no_excess and not self.nonfinite

    @property
    def outcome(self) -> Literal["cured", "finite", "persists"]:
        """What became of the incident at its place."""
        return "cured" if self.cured else "finite" if self.finite and not self.nonfinite else "persists"

    @property
    def text(self) -> str:
        """What the replay shows, in words."""
        shown = "no incident" if self.incident is None else f"{self.incident.title} at step {self.incident.onset_step}"
        if self.nonfinite and self.incident is None:
            shown += f", but the state at the end is not finite: {nonfinite_text(self.nonfinite)}"
        if self.excess is None:
            return shown
        excess = f"excess loss {100 * self.excess:.3g} % of R0's"
        if self.incident is None and not self.cured and not self.nonfinite:
            return f"no incident detected, but {excess}; the limit is {100 * CURED_SHARE:.3g} %"
        return f"{shown}, {excess}"


def judge_replay(
    judge: OutcomeJudge,
    run: Run,
    replay_start: int,
    moved_to: int | None = None,
    *,
    nonfinite: Mapping[str, int] | None = None,
) -> JudgedReplay:
    """Judge the replay `run`, driven from step `replay_start` on: around the onset of the incident, or around step
    `moved_to` if the suspect data are consumed there now. `nonfinite`: see `ReplayResult`."""
    place = judge.onset if moved_to is None else moved_to
    first = judge.first if moved_to is None else moved_to - 1
    incident = judge.find_incident(run, first, place + NEAR, replay_start if replay_start != judge.onset else None)
    if not judge.has_reference_excess:
        return JudgedReplay(incident, None, finite=False, nonfinite=nonfinite or {})
    area = replace(judge, first=first).excess_area(run, place + NEAR)
    share = 1.0 if np.isinf(area) else 0.0 if np.isinf(judge.excess) else area / judge.excess
    finite = np.isinf(judge.excess) and not np.isinf(area)
    return JudgedReplay(incident, share, finite=bool(finite), nonfinite=nonfinite or {})


def last_needed_step(incident: Incident) -> int:
    """The last step that is needed to see an incident: its peak, or an earlier step if the peak is far away."""
    return min(incident.peak_step, incident.onset_step + MAX_PEAK_DISTANCE)


def find_reappearance(run: Run, incident: Incident) -> DetectedIncident | None:
    """The incident itself, if a null replay shows it again. An incident near it is a different one."""
    last = last_needed_step(incident) + EARLY_STEPS
    return find_first_incident(
        run, incident.onset_step - EARLY_STEPS, last, rate_jump_only=_is_rate_jump_only(incident)
    )


def find_first_incident(
    run: Run, first: int, last: int, replay_start: int | None = None, *, rate_jump_only: bool = False
) -> DetectedIncident | None:
    """The first incident whose onset, or peak if its onset seems earlier, lies in [first, last]. A detector may see the
    onset too early when the rows end soon after. Only the effective history is searched.

    A jump of the learning rate alone is a change of the training, not an effect of one. It counts only if the incident
    in question is such a jump, too (`rate_jump_only`), and never at `replay_start`, where a changed replay started.
    """
    candidates = [i for i in detect_effective(run) if i.onset_step <= last]
    incidents = [i for i in candidates if i.onset_step >= first or first < i.peak_step <= last]
    jumps = [i for i in incidents if {finding.kind for finding in i.findings} == {"lr_discontinuity"}]
    incidents = [i for i in incidents if i not in jumps or (rate_jump_only and i.onset_step != replay_start)]
    return min(incidents, key=lambda incident: incident.onset_step, default=None)


def step_of_batch(run: Run, index: int) -> int | None:
    """The step of the effective history that consumed the batch at `index`; None if none did."""
    column = run.series("batch_index")
    rows = np.flatnonzero(column.value == index) if column is not None else np.zeros(0, np.int64)
    return int(column.step[rows[-1]]) if column is not None and rows.size else None


def loss_spread(runs: Iterable[Run], first: int) -> float:
    """How much the losses of replays differ that should be alike: the 95th percentile, over the steps from `first` on,
    of the largest difference at a step, nats; 0 for fewer than two replays."""
    curves = [loss for run in runs if (loss := run.series("loss")) is not None]
    if len(curves) < 2:
        return 0.0
    steps = curves[0].window(first, 2**62).step
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.step)
    if not steps.size:
        return 0.0
    values = np.stack([curve.value[np.searchsorted(curve.step, steps)] for curve in curves])
    differences = values.max(0) - values.min(0)
    differences = differences[np.isfinite(differences)]
    return float(np.percentile(differences, 95)) if differences.size else 0.0


def _is_rate_jump_only(incident: Incident) -> bool:
    return {signal.kind for signal in incident.signals} == {"lr_discontinuity"}


def _loss_values(loss: Series, first: int, last: int) -> np.ndarray:
    return loss.window(first, last + 1).value
