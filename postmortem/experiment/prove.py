"""Proves a cause: drives the designed experiment until it is decided.

A cause is confirmed only if the panels suggest it, every replay of its predictions comes out as predicted, no placebo
cures, and each rival has failed one of its own predictions. A skip removes any spike that a batch causes, so it proves
nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from postmortem.assess.stored_proofs import Proof
from postmortem.diagnosis import Experiment, Incident, Prediction, Verdict
from postmortem.experiment.design import Arm, Design, Test
from postmortem.experiment.judge import OutcomeJudge, find_reappearance, judge_replay, loss_spread, step_of_batch
from postmortem.experiment.null_replay import BAND_NOTE, NOTHING_TO_CURE, NullReplay, judge_null_replay
from postmortem.experiment.pool import FinishedReplay
from postmortem.experiment.target import NULL, ExperimentTarget
from postmortem.replay.spec import ReplaySpec
from postmortem.run import Run
from postmortem.sources import open_run
from postmortem.text import plain

NULL_AGAIN = "R0-again"  # folder of the second null replay
Outcome = Literal["cured", "finite", "persists", "follows", "vanished", ""]
_OUTCOMES: dict[str, tuple[Outcome, ...]] = {
    "cures": ("cured",),
    "finite": ("finite", "cured"),
    "persists": ("persists",),
    "follows": ("follows",),
    "vanishes": ("vanished",),
}


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
            tests=tuple(t.cause for t in self.design.tests if arm in t.arms),
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
        start = replayed.spec.from_step
        if arm.moved_to is None:
            judged = judge_replay(self.judge, run, start)
            return judged.outcome, judged.excess, judged.text
        moved_to = step_of_batch(run, arm.moved_to)
        if moved_to is None:
            return "", None, "the suspect data were not consumed again, so nothing can be concluded"
        old_incident = self.judge.find_incident(run, self.judge.first, moved_to - 2, start)
        if old_incident is not None:  # what continues from there is no second incident
            return "persists", None, f"it stays at its old place, step {old_incident.onset_step}"
        judged = judge_replay(self.judge, run, start, moved_to)
        text = f"where the data are consumed now (step {moved_to}): {judged.text}"
        if not judged.cured and judged.incident is None:
            return "", judged.excess, f"{text}: neither cured nor there"
        return "cured" if judged.cured else "follows", judged.excess, text

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
    experiment.drive([*design.tests[0].first_arms, *design.placebos, *design.data_state_arms])
    doubt = _placebo_doubt(experiment)
    if doubt:
        return _make_proof(incident, "undecided", "", doubt, [*replays, *experiment.driven.values()])
    confirmed = _drive_until_decided(experiment)
    replays += experiment.driven.values()
    refuted = {test.cause: failure for test in design.tests if (failure := _failed_prediction(experiment, test))}
    if confirmed is not None:
        rivals = "; ".join(f"{cause}: {failure}" for cause, failure in refuted.items())
        text = (
            f"the null replay shows it again {null.agreement}, every replay that {confirmed} predicts came out as "
            f"predicted, {len(design.placebos)} placebos do not cure"
            + (f", and its rivals fail ({rivals})" if rivals else "")
        )
        return _make_proof(incident, "confirmed", confirmed, text, replays)
    other_data, other_state = (experiment.driven[arm].outcome for arm in design.data_state_arms)
    if other_data == "cured" and other_state == "cured":
        text = (
            "the suspect batches do no harm in another state, and other batches do no harm in the suspect state: "
            "the incident needs both"
        )
        return _make_proof(incident, "interaction", "", text, replays)
    if len(refuted) == len(design.tests):
        text = "every tested cause failed a prediction: " + "; ".join(
            f"{cause}: {failure}" for cause, failure in refuted.items()
        )
        return _make_proof(incident, "refuted", "", text, replays)
    return _make_proof(
        incident,
        "undecided",
        "",
        _undecided_text([test for test in design.tests if test.cause not in refuted]),
        replays,
    )


def _undecided_text(tests: Sequence[Test]) -> str:
    """Why the causes that no replay refuted are not confirmed either."""
    names = ", ".join(test.cause for test in tests)
    if len(tests) > 1:
        return f"the replays do not distinguish between {names}"
    if not tests[0].likely:
        return f"only {names} is not refuted, but no panel suggests it: elimination alone confirms nothing"
    return f"only {names} is not refuted, but not every replay that it predicts could be driven"


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
    equal = first.result.state == second.result.state
    comparison = (
        "equals the first bit for bit" if equal else "differs from the first: the program does not reproduce itself"
    )
    text = f"nothing changed, once more: {comparison}"
    experiment.notify(NULL_AGAIN, text)
    out = experiment.target.relative_path(second.spec.out)
    again = replace(null.experiment, text=text, seconds=second.result.seconds, run=out)
    reason = f"{null.reason if equal else 'it does not appear again'}; a second null replay {comparison}"
    return null.cause if equal else "", reason, again


def _placebo_doubt(experiment: ExperimentDriver) -> str:
    """Why the placebos make any cure doubtful, in words; "" if all of them were driven and none cures."""
    placebos = [experiment.driven[arm] for arm in experiment.design.placebos]
    for placebo in placebos:
        if placebo.outcome not in ("persists", ""):
            changed = placebo.text.partition(": ")[0]
            return f"a placebo cures, too ({changed}): the incident depends on chance, so no cure proves a cause"
    for placebo in placebos:
        if not placebo.outcome:
            return f"a placebo could not be driven, and without it no cure proves a cause ({placebo.text})"
    return ""


def _drive_until_decided(experiment: ExperimentDriver) -> str | None:
    """Drive arms until the tests are decided; the cause whose predictions all came true while every rival failed one,
    or None.

    In each round, the next arm of every open test is driven, in parallel.
    """
    while waiting := [arm for test in experiment.design.tests if (arm := _next_arm(experiment, test)) is not None]:
        experiment.drive(waiting)
    unrefuted = [test for test in experiment.design.tests if not _failed_prediction(experiment, test)]
    return (
        unrefuted[0].cause
        if len(unrefuted) == 1 and unrefuted[0].likely and _all_come_true(experiment, unrefuted[0])
        else None
    )


def _next_arm(experiment: ExperimentDriver, test: Test) -> Arm | None:
    """The next arm that a test needs; None if it has failed, or all its arms were driven."""
    if _failed_prediction(experiment, test):
        return None
    for prediction, arms in test.predictions:
        if not any(_comes_true(experiment, prediction, arm) for arm in arms):
            waiting = [arm for arm in arms if arm not in experiment.driven]
            if waiting:
                return waiting[0]
    return None


def _all_come_true(experiment: ExperimentDriver, test: Test) -> bool:
    return all(any(_comes_true(experiment, p, arm) for arm in arms) for p, arms in test.predictions)


def _failed_prediction(experiment: ExperimentDriver, test: Test) -> str:
    """The first failed prediction of a cause, in words; "" if there is none. An arm that could not be driven fails
    nothing."""
    for prediction, arms in test.predictions:
        if not arms:  # it predicts that R0 shows no incident
            return "the null replay shows the incident again"
        outcomes = [experiment.driven[arm].outcome for arm in arms if arm in experiment.driven]
        if len(outcomes) == len(arms) and all(outcomes) and not set(_OUTCOMES[prediction.outcome]) & set(outcomes):
            changes = plain(", ".join(map(str, prediction.changes)), 120)
            return f"{changes}: predicted {_OUTCOMES[prediction.outcome][0]}, came out {outcomes[-1]}"
    return ""


def _comes_true(experiment: ExperimentDriver, prediction: Prediction, arm: Arm) -> bool:
    replay = experiment.driven.get(arm)
    return replay is not None and replay.outcome in _OUTCOMES[prediction.outcome]


def _make_proof(incident: Incident, verdict: Verdict, cause: str, text: str, replays: Sequence[Experiment]) -> Proof:
    ordered = tuple(sorted(replays, key=lambda replay: replay.role))
    return Proof(incident.key, verdict, cause, text, ordered)
