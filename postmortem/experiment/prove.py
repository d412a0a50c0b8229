"""Proving a cause: the designed experiment, driven until it is decided.

A cause is confirmed only where the panels suggest it, every replay that it names comes out as it says, no placebo
cures, and each rival has failed one of its own predictions. A skip removes any spike that a batch brings, so it proves
nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from postmortem.assess.proof import Proof
from postmortem.diagnosis import Experiment, Incident, Prediction, Verdict
from postmortem.experiment.design import Arm, Design, Test
from postmortem.experiment.judge import OutcomeJudge, judge_replay, reappeared, spread, step_of_batch
from postmortem.experiment.null_replay import BAND, BLIND, NullReplay, examine
from postmortem.experiment.pool import ReplayOutcome
from postmortem.experiment.target import NULL, ExperimentTarget
from postmortem.replay.spec import ReplaySpec
from postmortem.run import Run
from postmortem.sources import open_run
from postmortem.text import plain

AGAIN = "R0-again"  # folder of the second null replay
Outcome = Literal["cured", "finite", "persists", "follows", "vanished", ""]
_OUTCOMES: dict[str, tuple[Outcome, ...]] = {
    "cures": ("cured",),
    "finite": ("finite", "cured"),
    "persists": ("persists",),
    "follows": ("follows",),
    "vanishes": ("vanished",),
}


@dataclass
class ExperimentRun:
    """The arms of one experiment in the doing. `on_arm(name, text)` hears when one begins ("") and what came of it."""

    target: ExperimentTarget
    design: Design
    on_arm: Callable[[str, str], None] | None = None
    done: dict[Arm, Experiment] = field(default_factory=dict["Arm", Experiment])
    judge: OutcomeJudge | None = None
    _noise: dict[str, Run] = field(default_factory=dict[str, Run])

    @property
    def null_run(self) -> Run:
        """What R0 wrote, once it is driven."""
        return self.target.runs.run(self.target.folder / NULL)

    def null_order(self, name: str = NULL) -> ReplaySpec:
        """R0: nothing changed; the state just before the incident is kept for the arms."""
        design = self.design
        save = (design.lead,) if design.lead > design.from_step else ()
        return self.target.spec(name, design.from_step, design.until, save_at=save, reason="null replay")

    def spec(self, arm: Arm) -> ReplaySpec:
        """The order of one arm."""
        design = self.design
        on_null = not arm.early and design.lead > design.from_step
        start = design.start(arm)
        reason = f"{arm.role}: {arm.text}"
        return self.target.spec(arm.name, start, design.until, arm.changes, on_null=on_null, reason=reason)

    def drive(self, arms: Sequence[Arm]) -> None:
        """Run those arms that have no outcome yet, side by side."""
        waiting = [arm for arm in dict.fromkeys(arms) if arm not in self.done]
        by_out = {self.spec(arm).out: arm for arm in waiting}
        for arm in waiting:
            self.say(arm.name, "")
        specs = [self.spec(arm) for arm in waiting]
        self.target.drive(specs, lambda done: self._judge(by_out[done.spec.out], done))

    def _judge(self, arm: Arm, done: ReplayOutcome) -> None:
        outcome, excess, text = self._seen(arm, done)
        self.done[arm] = Experiment(
            role=arm.role,
            changes=arm.changes,
            outcome=outcome,
            text=f"{arm.text}: {text}",
            excess=excess,
            tests=tuple(t.cause for t in self.design.tests if arm in t.arms),
            from_step=done.spec.from_step,
            steps=done.spec.until - done.spec.from_step,
            seconds=0.0 if done.result is None else done.result.seconds,
            run=self.target.inside(done.spec.out),
        )
        self.say(arm.name, self.done[arm].text)

    def _seen(self, arm: Arm, done: ReplayOutcome) -> tuple[Outcome, float | None, str]:
        """(what became of the incident, its share of R0's excess, the same in words)."""
        assert self.judge is not None
        if done.result is None:
            return "", None, f"not driven: {done.error}"
        run = self._noise.pop(done.spec.out, None) or open_run(done.spec.out)
        start = done.spec.from_step
        if arm.asks is None:
            seen = judge_replay(self.judge, run, start)
            return seen.outcome, seen.excess, seen.text
        falls_at = step_of_batch(run, arm.asks)
        if falls_at is None:
            return "", None, "the data was not met again, so nothing can be said"
        stayed = self.judge.incident(run, self.judge.first, falls_at - 2, start)
        if stayed is not None:  # what lasts from there on is no second incident
            return "persists", None, f"it stays where it was, at step {stayed.onset_step}"
        seen = judge_replay(self.judge, run, start, falls_at)
        where = f"where the data falls now (step {falls_at}): {seen.text}"
        if not seen.cured and seen.found is None:
            return "", seen.excess, f"{where}, neither there nor gone"
        return "cured" if seen.cured else "follows", seen.excess, where

    def noise_runs(self) -> list[Run]:
        """The placebos that change nothing of meaning, driven side by side; each is kept until it is judged."""
        arms = [arm for arm in self.design.placebos if arm.changes[0].name == "noise"]
        driven = self.target.drive([self.spec(arm) for arm in arms])
        self._noise = {done.spec.out: open_run(done.spec.out) for done in driven if done.result is not None}
        return list(self._noise.values())

    def say(self, name: str, text: str) -> None:
        """Tell of an arm."""
        if self.on_arm is not None:
            self.on_arm(name, text)


def prove(bench: ExperimentRun) -> Proof:
    """Drive the experiment of `bench` until it is decided.

    Raises:
        PostmortemError: the null replay cannot be driven; its message says why.
    """
    design, run, incident = bench.design, bench.target.run, bench.target.incident
    null = _null_replay(bench)
    experiments = [null.experiment]
    if not null.reproduces:
        cause, reason = null.cause, null.reason
        if cause == "bit_flip":
            cause, reason, again = _again(bench, null)
            experiments.append(again)
        return _proof(incident, "not_reproducible", cause, reason, experiments)
    judge = OutcomeJudge.of(run, incident, design.first)
    if not null.exact:  # bits cannot be had: the band is what changes of no meaning do
        judge = judge.widened(spread([bench.null_run, *bench.noise_runs()], design.lead))
    bench.judge = judge.measured(bench.null_run)
    if not (null.found or bench.judge.measurable):
        return _proof(incident, "undecided", "", BLIND, experiments)
    bench.drive([*design.tests[0].first_arms, *design.placebos, *design.cross])
    doubt = _doubt(bench)
    if doubt:
        return _proof(incident, "undecided", "", doubt, [*experiments, *bench.done.values()])
    confirmed = _decide(bench)
    experiments += bench.done.values()
    refuted = {test.cause: why for test in design.tests if (why := _failed(bench, test))}
    if confirmed is not None:
        rivals = "; ".join(f"{cause}: {why}" for cause, why in refuted.items())
        text = (
            f"the null replay shows it again {null.how}, every replay that {confirmed} names came out as it says, "
            f"{len(design.placebos)} placebos do not cure" + (f", and its rivals fail ({rivals})" if rivals else "")
        )
        return _proof(incident, "confirmed", confirmed, text, experiments)
    other_data, other_state = (bench.done[arm].outcome for arm in design.cross)
    if other_data == "cured" and other_state == "cured":
        text = (
            "the suspect batches do no harm in another state, and others do none in the suspect state: "
            "the incident takes both"
        )
        return _proof(incident, "interaction", "", text, experiments)
    if len(refuted) == len(design.tests):
        text = "every tested cause failed a prediction: " + "; ".join(f"{c}: {why}" for c, why in refuted.items())
        return _proof(incident, "refuted", "", text, experiments)
    return _proof(incident, "undecided", "", _left([t for t in design.tests if t.cause not in refuted]), experiments)


def _left(tests: Sequence[Test]) -> str:
    """Why the causes that no replay refuted are not confirmed."""
    names = ", ".join(test.cause for test in tests)
    if len(tests) > 1:
        return f"the replays do not tell {names} apart"
    if not tests[0].likely:
        return f"{names} is all that the replays leave, but no panel suggests it: elimination alone confirms nothing"
    return f"{names} is all that the replays leave, but not all that it predicts could be driven"


def _null_replay(bench: ExperimentRun) -> NullReplay:
    target = bench.target
    bench.say(NULL, "")
    done = target.drive_one(bench.null_order())
    assert done.result is not None
    again = reappeared(bench.null_run, target.incident)
    null = examine(target.incident, done.result, again, target.inside(done.spec.out))
    bench.say(NULL, null.experiment.text + BAND * (null.reproduces and not null.exact))
    return null


def _again(bench: ExperimentRun, null: NullReplay) -> tuple[str, str, Experiment]:
    """(cause, reason, second null replay) where the first one parted from its run: the machine is to blame only if the
    second equals the first bit for bit. A program that does not reproduce itself parts from any run."""
    bench.say(AGAIN, "")
    first, second = (bench.target.drive_one(bench.null_order(name)) for name in (NULL, AGAIN))
    assert first.result is not None and second.result is not None
    alike = first.result.state == second.result.state
    told = "equals the first bit for bit" if alike else "differs from the first: the program does not repeat itself"
    text = f"nothing changed, once more: {told}"
    bench.say(AGAIN, text)
    out = bench.target.inside(second.spec.out)
    again = replace(null.experiment, text=text, seconds=second.result.seconds, run=out)
    reason = f"{null.reason if alike else 'it does not appear again'}; a second null replay {told}"
    return null.cause if alike else "", reason, again


def _doubt(bench: ExperimentRun) -> str:
    """What the placebos say against any cure, in words; "" where all of them were driven and none cures."""
    placebos = [bench.done[arm] for arm in bench.design.placebos]
    for one in placebos:
        if one.outcome not in ("persists", ""):
            changed = one.text.partition(": ")[0]
            return f"a placebo cures, too ({changed}): the incident hangs on chance, and no cure of it proves a cause"
    for one in placebos:
        if not one.outcome:
            return f"a placebo is missing, without which no cure proves a cause ({one.text})"
    return ""


def _decide(bench: ExperimentRun) -> str | None:
    """The one cause whose predictions all hold, once every rival has failed one; None where there is none.

    Round by round, each test that is still open has its next arm driven, side by side.
    """
    while waiting := [arm for test in bench.design.tests if (arm := _next(bench, test)) is not None]:
        bench.drive(waiting)
    left = [test for test in bench.design.tests if not _failed(bench, test)]
    return left[0].cause if len(left) == 1 and left[0].likely and _holds(bench, left[0]) else None


def _next(bench: ExperimentRun, test: Test) -> Arm | None:
    """The next arm that a test needs; None where it has failed, or all that it names was driven."""
    if _failed(bench, test):
        return None
    for prediction, arms in test.predictions:
        if not any(_shows(bench, prediction, arm) for arm in arms):
            waiting = [arm for arm in arms if arm not in bench.done]
            if waiting:
                return waiting[0]
    return None


def _holds(bench: ExperimentRun, test: Test) -> bool:
    return all(any(_shows(bench, p, arm) for arm in arms) for p, arms in test.predictions)


def _failed(bench: ExperimentRun, test: Test) -> str:
    """The first prediction of a cause that came out otherwise, in words; "" while none did. What could not be driven
    fails nothing."""
    for prediction, arms in test.predictions:
        if not arms:  # it predicts what R0 has refuted
            return "the null replay shows the incident again"
        done = [bench.done[arm].outcome for arm in arms if arm in bench.done]
        if len(done) == len(arms) and all(done) and not set(_OUTCOMES[prediction.outcome]) & set(done):
            changes = plain(", ".join(map(str, prediction.changes)), 120)
            return f"{changes}: predicted {_OUTCOMES[prediction.outcome][0]}, came out {done[-1]}"
    return ""


def _shows(bench: ExperimentRun, prediction: Prediction, arm: Arm) -> bool:
    done = bench.done.get(arm)
    return done is not None and done.outcome in _OUTCOMES[prediction.outcome]


def _proof(incident: Incident, verdict: Verdict, cause: str, text: str, experiments: Sequence[Experiment]) -> Proof:
    ordered = tuple(sorted(experiments, key=lambda one: one.role))
    return Proof(incident.key, verdict, cause, text, ordered)
