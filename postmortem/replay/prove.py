"""Proving a cause: the designed experiment, driven until it is decided.

A cause is confirmed only where every replay that it names comes out as it says, no placebo cures, and each rival has
failed one of its own predictions. A skip removes any spike that a batch brings, so it proves nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from postmortem.assess.proof import Proof
from postmortem.diagnosis import Experiment, Incident, Prediction, Verdict
from postmortem.errors import PostmortemError
from postmortem.replay.arms import Done, run_arms
from postmortem.replay.design import Arm, Design, Test
from postmortem.replay.judge import Yardstick, first_incident, look, spread, step_of_batch
from postmortem.replay.null import Null, examine
from postmortem.replay.order import Change, Order
from postmortem.run import Run
from postmortem.sources import open_run
from postmortem.text import plain

NULL = "R0"
Outcome = Literal["cured", "persists", "follows", "vanished", ""]
_OUTCOMES: dict[str, Outcome] = {"cures": "cured", "persists": "persists", "follows": "follows", "vanishes": "vanished"}


@dataclass
class Bench:
    """Where and how the arms of one experiment are run."""

    run: Run
    design: Design
    folder: Path
    program: str | None = None
    trusted: bool = False
    workers: int | None = None
    on_arm: Callable[[str, str], None] | None = None  # (name of an arm, what came of it; "" when it begins)
    done: dict[Arm, Experiment] = field(default_factory=dict["Arm", Experiment])
    yardstick: Yardstick | None = None

    @property
    def attempt(self) -> int | None:
        """The lineage in which the incident lies, where it was rolled back."""
        return self.design.incident.attempt if self.design.incident.discarded else None

    def null_order(self) -> Order:
        """R0: nothing changed; the state just before the incident is kept for the arms."""
        design = self.design
        save = (design.lead,) if design.lead > design.from_step else ()
        return self._order(str(self.run.path), NULL, design.from_step, (), save, self.attempt, "null replay")

    def order(self, arm: Arm) -> Order:
        """The order of one arm."""
        design = self.design
        early = arm.early or design.lead == design.from_step
        parent = str(self.run.path) if early else str(self.folder / NULL)
        attempt = self.attempt if early else None
        return self._order(parent, arm.name, design.start(arm), arm.changes, (), attempt, f"{arm.role}: {arm.text}")

    def drive(self, arms: Sequence[Arm]) -> None:
        """Run those arms that have no outcome yet, side by side."""
        waiting = [arm for arm in dict.fromkeys(arms) if arm not in self.done]
        by_out = {self.order(arm).out: arm for arm in waiting}
        for arm in waiting:
            self.say(arm.name, "")
        run_arms(
            [self.order(arm) for arm in waiting],
            workers=self.workers,
            threads=threads_of(self.run),
            on_done=lambda done: self._judge(by_out[done.order.out], done),
        )

    def _judge(self, arm: Arm, done: Done) -> None:
        assert self.yardstick is not None
        out = Path(done.order.out)
        outcome: Outcome = ""
        excess = None
        if done.result is None:
            text = f"not driven: {done.error}"
        else:
            falls_at = None if arm.asks is None else step_of_batch(open_run(out), arm.asks)
            seen = look(self.yardstick, out, falls_at)
            excess, text = seen.excess, seen.text
            outcome = "cured" if seen.cured else "persists" if arm.asks is None else "follows"
            if arm.asks is not None:
                text = f"where the data falls now (step {falls_at}): {text}"
        self.done[arm] = Experiment(
            role=arm.role,
            changes=tuple(str(change) for change in arm.changes),
            outcome=outcome,
            text=f"{arm.text}: {text}",
            excess=excess,
            tests=tuple(t.cause for t in self.design.tests if arm in t.arms),
            from_step=done.order.from_step,
            steps=done.order.until - done.order.from_step,
            seconds=0.0 if done.result is None else done.result.seconds,
            run=self.inside(out),
        )
        self.say(arm.name, self.done[arm].text)

    def _order(
        self,
        parent: str,
        name: str,
        from_step: int,
        changes: tuple[Change, ...],
        save_at: tuple[int, ...],
        attempt: int | None,
        reason: str,
    ) -> Order:
        return Order(
            run=parent,
            out=str(self.folder / name),
            from_step=from_step,
            until=self.design.until,
            changes=changes,
            attempt=attempt,
            program=self.program,
            save_at=save_at,
            reason=reason,
            trusted=self.trusted,
        )

    def say(self, name: str, text: str) -> None:
        """Tell of an arm."""
        if self.on_arm is not None:
            self.on_arm(name, text)

    def inside(self, out: Path) -> str:
        """A path as the run's own directory sees it."""
        root = self.run.root
        return str(out.relative_to(root)) if root is not None and out.is_relative_to(root) else str(out)


def threads_of(run: Run) -> int:
    """The number of threads that the run recorded; 1 where it did not."""
    found = run.manifest.environment.get("threads")
    return found if type(found) is int and 0 < found <= 1024 else 1


def prove(bench: Bench) -> Proof:
    """Drive the experiment of `bench` until it is decided.

    Raises:
        PostmortemError: the null replay cannot be driven; its message says why.
    """
    design, run = bench.design, bench.run
    incident = design.incident
    null = _null_replay(bench)
    experiments = [null.experiment]
    if not null.reproduces:
        return _proof(incident, "not_reproducible", null.cause, null.reason, experiments)
    yardstick = Yardstick.of(run, incident, design.lead)
    bench.yardstick = yardstick.measured(bench.folder / NULL)
    bench.drive([*design.tests[0].first_arms, *design.placebos, *design.cross])
    if null.other_arithmetic:  # bits cannot be had: the band is what changes of no meaning do
        noise = [bench.folder / arm.name for arm in design.placebos if arm.changes[0].name == "noise"]
        noise.append(bench.folder / NULL)
        bench.yardstick = bench.yardstick.widened(spread(noise, design.lead))
    confirmed = _decide(bench)
    experiments += bench.done.values()
    curing = [arm.text for arm in design.placebos if bench.done[arm].outcome == "cured"]
    refuted = {test.cause: why for test in design.tests if (why := _failed(bench, test))}
    if curing:
        why = f"a placebo cures as well ({curing[0]}): the incident hangs on chance, and no cure of it proves a cause"
        return _proof(incident, "undecided", "", why, experiments)
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
    left = ", ".join(test.cause for test in design.tests if test.cause not in refuted)
    return _proof(incident, "undecided", "", f"the replays do not tell {left} apart", experiments)


def _null_replay(bench: Bench) -> Null:
    order = bench.null_order()
    bench.say(NULL, "")
    (done,) = run_arms([order], workers=1, threads=threads_of(bench.run))
    if done.result is None:
        error = PostmortemError(f"the null replay cannot be driven: {done.error}")
        error.exit_code = done.exit_code if done.exit_code in (2, 3, 5) else 2
        raise error
    incident, design = bench.design.incident, bench.design
    found = first_incident(open_run(Path(order.out)), design.lead, incident.onset_step + 50)
    null = examine(bench.run, incident, done.result, found, bench.inside(Path(order.out)))
    bench.say(NULL, null.experiment.text)
    return null


def _decide(bench: Bench) -> str | None:
    """The one cause whose predictions all hold, once every rival has failed one; None where there is none.

    Round by round, each test that is still open has its next arm driven, side by side.
    """
    while waiting := [arm for test in bench.design.tests if (arm := _next(bench, test)) is not None]:
        bench.drive(waiting)
    left = [test for test in bench.design.tests if not _failed(bench, test)]
    return left[0].cause if len(left) == 1 and _holds(bench, left[0]) else None


def _next(bench: Bench, test: Test) -> Arm | None:
    """The next arm that a test needs; None where it has failed, or all that it names was driven."""
    if _failed(bench, test):
        return None
    for prediction, arms in test.predictions:
        if not any(_shows(bench, prediction, arm) for arm in arms):
            waiting = [arm for arm in arms if arm not in bench.done]
            if waiting:
                return waiting[0]
    return None


def _holds(bench: Bench, test: Test) -> bool:
    return all(any(_shows(bench, p, arm) for arm in arms) for p, arms in test.predictions)


def _failed(bench: Bench, test: Test) -> str:
    """The first prediction of a cause that came out otherwise, in words; "" while none did. What could not be driven
    fails nothing."""
    for prediction, arms in test.predictions:
        if not arms:  # it predicts what R0 has refuted
            return "the null replay shows the incident again"
        done = [bench.done[arm].outcome for arm in arms if arm in bench.done]
        if len(done) == len(arms) and all(done) and _OUTCOMES[prediction.outcome] not in done:
            changes = plain(prediction.change.replace("|", ", "), 120)
            return f"{changes}: predicted {_OUTCOMES[prediction.outcome]}, came out {done[-1]}"
    return ""


def _shows(bench: Bench, prediction: Prediction, arm: Arm) -> bool:
    done = bench.done.get(arm)
    return done is not None and done.outcome == _OUTCOMES[prediction.outcome]


def _proof(incident: Incident, verdict: Verdict, cause: str, text: str, experiments: Sequence[Experiment]) -> Proof:
    ordered = tuple(sorted(experiments, key=lambda one: one.role))
    return Proof(incident.kind, incident.onset_step, incident.attempt, verdict, cause, text, ordered)
