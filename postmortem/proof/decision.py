"""Decides an experiment by what its replays showed: while they are driven, and again when their record is read.

A cause is confirmed only if the panels suggest it, every replay of its predictions comes out as predicted, no placebo
cures, and each rival has failed one of its own predictions. A skip removes any spike that a batch causes, so it proves
nothing by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from postmortem.diagnosis import Experiment, Prediction, Verdict
from postmortem.proof.design import Arm, Design, Test
from postmortem.proof.judge import OutcomeJudge, judge_replay, step_of_batch
from postmortem.run import Run
from postmortem.run.replayed import ReplayResult
from postmortem.text import plain

Outcome: TypeAlias = Literal["cured", "finite", "persists", "follows", "vanished", ""]
Driven: TypeAlias = Mapping[Arm, Experiment]

_OUTCOMES: dict[str, tuple[Outcome, ...]] = {
    "cures": ("cured",),
    "finite": ("finite", "cured"),
    "persists": ("persists",),
    "follows": ("follows",),
    "vanishes": ("vanished",),
}


@dataclass(frozen=True)
class Decision:
    """What an experiment shows: `cause` is the confirmed one or "", `text` says why, in words."""

    verdict: Verdict
    cause: str
    text: str


def judge_arm(judge: OutcomeJudge, arm: Arm, run: Run, result: ReplayResult) -> tuple[Outcome, float | None, str]:
    """(what became of the incident in `run`, an arm that ended with `result`; its share of R0's excess; a description
    in words)."""
    start = result.from_step
    if arm.moved_to is None:
        judged = judge_replay(judge, run, start, nonfinite=result.nonfinite)
        return judged.outcome, judged.excess, judged.text
    moved_to = step_of_batch(run, arm.moved_to)
    if moved_to is None:
        return "", None, "the suspect data were not consumed again, so nothing can be concluded"
    old_incident = judge.find_incident(run, judge.first, moved_to - 2, start)
    if old_incident is not None:  # what continues from there is no second incident
        return "persists", None, f"it stays at its old place, step {old_incident.onset_step}"
    judged = judge_replay(judge, run, start, moved_to, nonfinite=result.nonfinite)
    text = f"where the data are consumed now (step {moved_to}): {judged.text}"
    if not judged.cured and judged.incident is None:
        return "", judged.excess, f"{text}: neither cured nor there"
    return "cured" if judged.cured else "follows", judged.excess, text


def causes_that_name(design: Design, arm: Arm) -> tuple[str, ...]:
    """The causes whose predictions an arm tests."""
    return tuple(test.cause for test in design.tests if arm in test.arms)


def first_arms(design: Design) -> tuple[Arm, ...]:
    """The arms that every experiment drives."""
    return tuple(dict.fromkeys([*design.tests[0].first_arms, *design.placebos, *design.data_state_arms]))


def next_arms(design: Design, driven: Driven) -> list[Arm]:
    """The next arm of every test that is still open; none if the experiment is decided."""
    return [arm for test in design.tests if (arm := _next_arm(driven, test)) is not None]


def placebo_doubt(design: Design, driven: Driven) -> str:
    """Why the placebos make any cure doubtful, in words; "" if all of them were driven and none cures."""
    placebos = [driven[arm] for arm in design.placebos]
    for placebo in placebos:
        if placebo.outcome not in ("persists", ""):
            changed = placebo.text.partition(": ")[0]
            return f"a placebo cures, too ({changed}): the incident depends on chance, so no cure proves a cause"
    for placebo in placebos:
        if not placebo.outcome:
            return f"a placebo could not be driven, and without it no cure proves a cause ({placebo.text})"
    return ""


def decide(design: Design, agreement: str, driven: Driven) -> Decision:
    """What the driven arms show, if R0 shows the incident again; `agreement` says how exactly. All `first_arms` were
    driven."""
    doubt = placebo_doubt(design, driven)
    if doubt:
        return Decision("undecided", "", doubt)
    confirmed = _confirmed_cause(design, driven)
    refuted = {test.cause: failure for test in design.tests if (failure := _failed_prediction(driven, test))}
    if confirmed is not None:
        rivals = "; ".join(f"{cause}: {failure}" for cause, failure in refuted.items())
        text = (
            f"the null replay shows it again {agreement}, every replay that {confirmed} predicts came out as "
            f"predicted, {len(design.placebos)} placebos do not cure"
            + (f", and its rivals fail ({rivals})" if rivals else "")
        )
        return Decision("confirmed", confirmed, text)
    other_data, other_state = (driven[arm].outcome for arm in design.data_state_arms)
    carried = other_data == "cured" and other_state == "follows"
    batches = "the suspect batches take the incident along, and without them it is cured; " if carried else ""
    if other_data == "cured" and other_state == "cured":
        text = (
            "the suspect batches do no harm in another state, and other batches do no harm in the suspect state: "
            "the incident needs both"
        )
        return Decision("interaction", "", text)
    if len(refuted) == len(design.tests):
        failures = "; ".join(f"{cause}: {failure}" for cause, failure in refuted.items())
        return Decision("refuted", "", f"{batches}every tested cause failed a prediction: {failures}")
    open_tests = [test for test in design.tests if test.cause not in refuted]
    return Decision("undecided", "", batches + _undecided_text(open_tests))


def predictions_hold(design: Design, driven: Driven, cause: str) -> bool:
    """Whether no recorded outcome speaks against `cause`, and one speaks for it: all that can be asked of a record that
    lacks some of the replays."""
    test = next((test for test in design.tests if test.cause == cause), None)
    if test is None or any(driven[arm].outcome != "persists" for arm in design.placebos if arm in driven):
        return False
    shown = any(_comes_true(driven, prediction, arm) for prediction, arms in test.predictions for arm in arms)
    return shown and not _failed_prediction(driven, test)


def _undecided_text(tests: Sequence[Test]) -> str:
    """Why the causes that no replay refuted are not confirmed either."""
    names = ", ".join(test.cause for test in tests)
    if len(tests) > 1:
        return f"the replays do not distinguish between {names}"
    if not tests[0].likely:
        return f"only {names} is not refuted, but no panel suggests it: elimination alone confirms nothing"
    return f"only {names} is not refuted, but not every replay that it predicts could be driven"


def _confirmed_cause(design: Design, driven: Driven) -> str | None:
    """The cause whose predictions all came true while every rival failed one, or None."""
    unrefuted = [test for test in design.tests if not _failed_prediction(driven, test)]
    return (
        unrefuted[0].cause
        if len(unrefuted) == 1 and unrefuted[0].likely and _all_come_true(driven, unrefuted[0])
        else None
    )


def _next_arm(driven: Driven, test: Test) -> Arm | None:
    """The next arm that a test needs; None if it has failed, or all its arms were driven."""
    if _failed_prediction(driven, test):
        return None
    for prediction, arms in test.predictions:
        if not any(_comes_true(driven, prediction, arm) for arm in arms):
            waiting = [arm for arm in arms if arm not in driven]
            if waiting:
                return waiting[0]
    return None


def _all_come_true(driven: Driven, test: Test) -> bool:
    return all(any(_comes_true(driven, p, arm) for arm in arms) for p, arms in test.predictions)


def _failed_prediction(driven: Driven, test: Test) -> str:
    """The first failed prediction of a cause, in words; "" if there is none. An arm that could not be driven fails
    nothing."""
    for prediction, arms in test.predictions:
        if not arms:  # it predicts that R0 shows no incident
            return "the null replay shows the incident again"
        outcomes = [driven[arm].outcome for arm in arms if arm in driven]
        if len(outcomes) == len(arms) and all(outcomes) and not set(_OUTCOMES[prediction.outcome]) & set(outcomes):
            changes = plain(", ".join(map(str, prediction.changes)), 120)
            return f"{changes}: predicted {_OUTCOMES[prediction.outcome][0]}, came out {outcomes[-1]}"
    return ""


def _comes_true(driven: Driven, prediction: Prediction, arm: Arm) -> bool:
    replay = driven.get(arm)
    return replay is not None and replay.outcome in _OUTCOMES[prediction.outcome]
