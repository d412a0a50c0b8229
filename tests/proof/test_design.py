"""The plan of an experiment, for every cause there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postmortem.assess.suspect import AWAY
from postmortem.causes import Cause, Suspect, causes
from postmortem.change import Change
from postmortem.diagnosis import Hypothesis, Incident, Prediction
from postmortem.errors import UsageError
from postmortem.interventions import build_intervention
from postmortem.proof.design import (
    LEAD_STEPS,
    MAX_PLACEBO_BATCHES,
    MAX_TESTS,
    MIN_PROBABILITY,
    MIN_TESTS,
    Arm,
    Design,
    design_experiment,
)
from postmortem.proof.judge import NEAR
from tests.report.factory import spike

HERE = Suspect(window=(312, 313), move_to=313 + AWAY, onset=312, jump=312)
PREDICTING = [cause for cause in causes() if any(one.changes for one in cause.predicts(HERE))]


def hypothesis(cause: str, probability: float, *predictions: Prediction) -> Hypothesis:
    return Hypothesis(cause, cause, probability, 1.0, "weak", predictions=predictions)


def of(cause: str, probability: float = 0.2) -> Hypothesis:
    """A catalogued cause with what it predicts here."""
    (known,) = [one for one in causes() if one.slug == cause]
    return hypothesis(cause, probability, *known.predicts(HERE))


def incident(*hypotheses: Hypothesis, skip: tuple[int, int] | None = (312, 313)) -> Incident:
    """A spike at 312, its peak at 313."""
    return replace(spike().incidents[0], hypotheses=hypotheses, skip_window=skip)


def every(plan: Design) -> list[Arm]:
    return list(
        dict.fromkeys([*plan.placebos, *plan.data_state_arms, *(arm for test in plan.tests for arm in test.arms)])
    )


def span(arm: Arm) -> tuple[int, int]:
    (window,) = arm.changes[0].windows
    return window


class TestPlan:
    @pytest.mark.parametrize("apart", [False, True])
    def test_of_the_worked_example(self, apart: bool) -> None:
        plan = design_experiment(incident(of("long_tail_tokens"), of("garbage_data")), from_step=300, independent=apart)
        assert plan.window == (312, 313)
        assert plan.first == 312 - 1 - 2 - LEAD_STEPS
        assert plan.arms_start == (300 if apart else plan.first)
        assert [str(arm.changes[0]) for arm in plan.placebos] == ["skip=311:312", "skip=310:311", "noise=1"]
        assert [str(arm.changes[0]) for arm in plan.data_state_arms] == ["replace=312:313", "move=312:313@353"]
        assert plan.data_state_arms[1].moved_to == 353 and plan.until > 353 + NEAR
        names = [str(change) for arm in plan.tests[0].arms for change in arm.changes]
        assert names == ["mask=312:313", "replace=312:313", "move=312:313@353"]
        assert plan.tests[0].arms[1] is plan.data_state_arms[0], "one replay answers several questions"

    @given(st.integers(0, 400), st.integers(0, 60), st.integers(1, 40), st.integers(0, 20), st.booleans())
    def test_whatever_the_incident(self, start: int, ahead: int, length: int, peak: int, apart: bool) -> None:
        onset = start + ahead
        window = (onset, onset + length)
        moved = f"{window[0]}:{window[1]}@{window[1] + AWAY}"
        found = replace(
            incident(hypothesis("a", 0.5, Prediction((Change.from_text(f"move={moved}"),), "follows")), skip=window),
            onset_step=onset,
            peak_step=onset + peak,
        )
        plan = design_experiment(found, from_step=start, independent=apart)
        assert start <= plan.arms_start <= plan.first <= onset
        assert plan.until > max(onset + NEAR, onset + length + AWAY + NEAR)
        assert len(plan.placebos) >= 3 and all(arm.role == "R2" for arm in plan.placebos)
        skips = [span(arm) for arm in plan.placebos if arm.changes[0].name == "skip"]
        noises = [arm.changes[0].values[0] for arm in plan.placebos if arm.changes[0].name == "noise"]
        assert len(set(skips)) + len(set(noises)) == len(plan.placebos) and noises, "each of them another"
        for first, last in skips:
            assert last - first == min(length, MAX_PLACEBO_BATCHES)
            assert last <= window[0], "a placebo leaves the suspect data alone, and lies where it could cure"
            assert first >= plan.arms_start, "and skips what is still to come"

    def test_folders_are_told_apart_and_are_names(self) -> None:
        plan = design_experiment(incident(*(of(cause.slug) for cause in PREDICTING[:MAX_TESTS])), from_step=300)
        names = [arm.name for arm in every(plan)]
        assert len(set(names)) == len(names)
        for name in names:
            assert "/" not in name and name not in ("R0", ".", "..") and len(name) < 100

    def test_a_name_cannot_leave_its_folder(self) -> None:
        assert "/" not in Arm("R1", (Change.from_text("set=../../x=/etc/passwd"),)).name

    def test_early_arms_begin_at_the_checkpoint(self) -> None:
        plan = design_experiment(incident(of("lr_too_high")), from_step=300)
        early, late = plan.tests[0].arms[0], plan.tests[0].arms[-1]
        assert (plan.start(early), plan.start(late)) == (300, plan.arms_start)
        assert plan.steps(early) - plan.steps(late) == plan.arms_start - 300

    def test_without_a_skip_window_the_best_hypothesis_says_what_is_suspect(self) -> None:
        assert design_experiment(incident(of("optimizer_reset"), skip=None), from_step=300).window == (312, 313)
        bare = hypothesis("x", 0.5, Prediction((Change.from_text("moments=restored"),), "cures"))
        assert design_experiment(incident(bare, skip=None), from_step=300).window == (312, 314), "onset through peak"


class TestTested:
    def test_likely_ones_and_at_least_three(self) -> None:
        able = [of(cause.slug, 0.001) for cause in PREDICTING]
        plan = design_experiment(incident(*able), from_step=300)
        assert len(plan.tests) == MIN_TESTS and not any(test.likely for test in plan.tests)
        plan = design_experiment(incident(*(replace(one, probability=MIN_PROBABILITY) for one in able)), from_step=300)
        assert len(plan.tests) == MAX_TESTS and all(test.likely for test in plan.tests)

    def test_what_only_predicts_that_nothing_appears_is_decided_by_the_null_replay(self) -> None:
        plan = design_experiment(incident(of("bit_flip", 0.9), of("long_tail_tokens")), from_step=300)
        assert [test.cause for test in plan.tests] == ["long_tail_tokens"]

    def test_nothing_to_test_says_so(self) -> None:
        with pytest.raises(UsageError, match="predicts a replay that could test it"):
            design_experiment(incident(of("bit_flip"), hypothesis("unknown", 0.9)), from_step=300)


class TestCatalogue:
    """What every cause says of replays."""

    @pytest.mark.parametrize("cause", PREDICTING, ids=lambda cause: cause.slug)
    def test_every_change_is_one_that_can_be_made(self, cause: Cause) -> None:
        plan = design_experiment(incident(of(cause.slug)), from_step=300)
        assert all(arm.text for arm in plan.tests[0].arms)

    def test_a_cause_that_predicts_says_what_cures_it(self) -> None:
        for cause in causes():
            assert (cause.fix is not None) == bool(cause.predicts(HERE)), cause.slug
            remedy = cause.fix(HERE) if cause.fix else ()
            assert all(build_intervention(change).text for change in remedy)
            assert remedy or all(one == Prediction((), "vanishes") for one in cause.predicts(HERE)), cause.slug

    def test_a_remedy_is_not_contradicted_by_the_cause_itself(self) -> None:
        for cause in PREDICTING:
            own = {change: one.outcome for one in cause.predicts(HERE) for change in one.changes}
            assert cause.fix is not None
            assert all(own.get(change, "cures") == "cures" for change in cause.fix(HERE)), cause.slug

    def test_every_cause_predicts_a_cure(self) -> None:
        """Else any run that nothing cures would prove it."""
        for cause in PREDICTING:
            assert any(one.outcome in ("cures", "finite") for one in cause.predicts(HERE)), cause.slug

    def test_no_cause_predicts_a_part_of_what_another_does(self) -> None:
        """Whenever the other held, so would it, and neither could be confirmed."""
        for a in PREDICTING:
            for b in PREDICTING:
                mine, theirs = ({(one.changes, one.outcome) for one in cause.predicts(HERE)} for cause in (a, b))
                assert a is b or not mine <= theirs, f"{a.slug} cannot be told from {b.slug}"
