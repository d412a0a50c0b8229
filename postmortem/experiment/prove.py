"""Proves a cause: drives the designed experiment until it is decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from postmortem.diagnosis import Experiment, Incident, Verdict
from postmortem.experiment.pool import FinishedReplay
from postmortem.experiment.target import NULL, ExperimentTarget
from postmortem.proof.decision import Outcome, causes_that_name, decide, first_arms, judge_arm, next_arms, placebo_doubt
from postmortem.proof.design import Arm, Design
from postmortem.proof.judge import OutcomeJudge, find_reappearance, loss_spread
from postmortem.proof.null_replay import (
    BAND_NOTE,
    NOTHING_TO_CURE,
    NullReplay,
    judge_null_replay,
    judge_second_null_replay,
)
from postmortem.proof.stored_proofs import Proof
from postmortem.replay.spec import ReplaySpec
from postmortem.run import Run
from postmortem.sources import open_run

NULL_AGAIN = "R0-again"  # folder of the second null replay


@dataclass
class ExperimentDriver:
    """Drives the arms of one experiment. `on_arm(name, text)` is called when an arm starts (with "") and when it
    ends."""

    target: ExperimentTarget
    design: Design
    on_arm: Callable[[str, str], None] | None = None
    driven: dict[Arm, Experiment] = field(default_factory=dict["Arm", Experiment])
    judge: OutcomeJudge | None = None
    _noise: dict[str, Run] = field(default_factory=dict[str, Run])

    @property
    def null_run(self) -> Run:
        """The run that R0 wrote, after it was driven."""
        return self.target.runs.run(self.target.folder / NULL)

    def null_spec(self, name: str = NULL) -> ReplaySpec:
        """The spec of R0: no changes; it saves the state just before the incident for the arms."""
        design = self.design
        save = (design.arms_start,) if design.arms_start > design.from_step else ()
        return self.target.spec(name, design.from_step, design.until, save_at=save, reason="null replay")

    def spec(self, arm: Arm) -> ReplaySpec:
        """The spec of one arm."""
        design = self.design
        on_null = not arm.from_checkpoint and design.arms_start > design.from_step
        start = design.start(arm)
        reason = f"{arm.role}: {arm.text}"
        return self.target.spec(arm.name, start, design.until, arm.changes, on_null=on_null, reason=reason)

    def drive(self, arms: Sequence[Arm]) -> None:
        """Drive those arms that were not driven yet, in parallel."""
        waiting = [arm for arm in dict.fromkeys(arms) if arm not in self.driven]
        by_out = {self.spec(arm).out: arm for arm in waiting}
        for arm in waiting:
            self.notify(arm.name, "")
        specs = [self.spec(arm) for arm in waiting]
        self.target.drive(specs, lambda replayed: self._record_judged_arm(by_out[replayed.spec.out], replayed))

    def _record_judged_arm(self, arm: Arm, replayed: FinishedReplay) -> None:
        outcome, excess, text = self._outcome_of(arm, replayed)
        self.driven[arm] = Experiment(
            role=arm.role,
            changes=arm.changes,
            outcome=outcome,
            text=f"{arm.text}: {text}",
            excess=excess,
            tests=causes_that_name(self.design, arm),
            from_step=replayed.spec.from_step,
            steps=replayed.spec.until - replayed.spec.from_step,
            seconds=0.0 if replayed.result is None else replayed.result.seconds,
            run=self.target.relative_path(replayed.spec.out),
        )
        self.notify(arm.name, self.driven[arm].text)

    def _outcome_of(self, arm: Arm, replayed: FinishedReplay) -> tuple[Outcome, float | None, str]:
        """(what became of the incident, its share of R0's excess, a description in words)."""
        assert self.judge is not None
        if replayed.result is None:
            return "", None, f"not driven: {replayed.error}"
        run = self._noise.pop(replayed.spec.out, None) or open_run(replayed.spec.out)
        return judge_arm(self.judge, arm, run, replayed.result)

    def noise_runs(self) -> list[Run]:
        """Drive the placebos that only add noise, in parallel; each run is kept until it is judged."""
        arms = [arm for arm in self.design.placebos if arm.changes[0].name == "noise"]
        finished = self.target.drive([self.spec(arm) for arm in arms])
        self._noise = {replay.spec.out: open_run(replay.spec.out) for replay in finished if replay.result is not None}
        return list(self._noise.values())

    def notify(self, name: str, text: str) -> None:
        """Pass a message about an arm to `on_arm`."""
        if self.on_arm is not None:
            self.on_arm(name, text)


def prove(experiment: ExperimentDriver) -> Proof:
    """Drive `experiment` until it is decided.

    Raises:
        PostmortemError: the null replay failed; its message says why.
    """
    design, run, incident = experiment.design, experiment.target.run, experiment.target.incident
    null = _drive_null_replay(experiment)
    replays = [null.experiment]
    if not null.reproduces:
        cause, reason = null.cause, null.reason
        if cause == "bit_flip":
            cause, reason, second = _drive_second_null_replay(experiment, null)
            replays.append(second)
        return _make_proof(incident, "not_reproducible", cause, reason, replays)
    judge = OutcomeJudge.of(run, incident, design.first)
    if not null.exact:  # equal bits are not possible here: measure the effect of meaningless changes
        judge = judge.with_band(loss_spread([experiment.null_run, *experiment.noise_runs()], design.arms_start))
    experiment.judge = judge.with_reference_excess(experiment.null_run)
    if not (null.detected or experiment.judge.has_reference_excess):
        return _make_proof(incident, "undecided", "", NOTHING_TO_CURE, replays)
    experiment.drive(first_arms(design))
    if not placebo_doubt(design, experiment.driven):
        while waiting := next_arms(design, experiment.driven):  # the next arm of every open test, in parallel
            experiment.drive(waiting)
    decision = decide(design, null.agreement, experiment.driven)
    driven = [*replays, *experiment.driven.values()]
    return _make_proof(incident, decision.verdict, decision.cause, decision.text, driven)


def _drive_null_replay(experiment: ExperimentDriver) -> NullReplay:
    target = experiment.target
    experiment.notify(NULL, "")
    replay = target.drive_one(experiment.null_spec())
    assert replay.result is not None
    incident = find_reappearance(experiment.null_run, target.incident)
    null = judge_null_replay(target.incident, replay.result, incident, target.relative_path(replay.spec.out))
    experiment.notify(NULL, null.experiment.text + (BAND_NOTE if null.reproduces and not null.exact else ""))
    return null


def _drive_second_null_replay(experiment: ExperimentDriver, null: NullReplay) -> tuple[str, str, Experiment]:
    """(cause, reason, second null replay) where the first null replay differs from its run. The machine is to blame
    only if the second equals the first bit for bit: a program that does not reproduce itself differs from any run."""
    experiment.notify(NULL_AGAIN, "")
    first, second = (experiment.target.drive_one(experiment.null_spec(name)) for name in (NULL, NULL_AGAIN))
    assert first.result is not None and second.result is not None
    out = experiment.target.relative_path(second.spec.out)
    equal = first.result.state == second.result.state
    cause, reason, again = judge_second_null_replay(null, second.result, out, equal=equal)
    experiment.notify(NULL_AGAIN, again.text)
    return cause, reason, again


def _make_proof(incident: Incident, verdict: Verdict, cause: str, text: str, replays: Sequence[Experiment]) -> Proof:
    ordered = tuple(sorted(replays, key=lambda replay: replay.role))
    return Proof(incident.key, verdict, cause, text, ordered)
