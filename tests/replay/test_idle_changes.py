"""A change that does nothing in the replayed steps is refused, or said to do nothing: it is no failed cure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from postmortem.change import Change
from postmortem.errors import UsageError
from postmortem.interventions import intervention_classes, parse_change
from postmortem.pipeline import diagnose
from postmortem.proof.single import judge_single
from postmortem.replay.request import ReplayPlan, ReplayRequest, plan, plan_from_file
from postmortem.run.replayed import ReplayResult
from postmortem.sources import open_run
from tests.makers import worked_example
from tests.replay.small import STEPS, drive, make_spec, small_run
from tests.samples import sample

pytestmark = pytest.mark.heavy
SPIKE, RESET = sample("19-spike-001"), sample("20-run-003")
CONSUMED = r"steps \[300, 340\), which consume batches \[300, 340\)"
WINDOWS = {"move": "{0}:{1}@{2}"}  # of changes that need more than a window


def planned(run: Path, *changes: str, until: int | None = 340, start: int | None = 300) -> ReplayPlan:
    return plan(ReplayRequest(run, from_step=start, until=until, changes=tuple(map(parse_change, changes))))


def notes(made: ReplayPlan) -> list[str]:
    return [text for label, text in made.lines if label == "note"]


@pytest.mark.parametrize("name", sorted(name for name, kind in intervention_classes().items() if kind.batches))
@pytest.mark.parametrize(("first", "last"), [(200, 210), (5000, 5200), (340, 341), (0, 300)])
def test_a_window_that_the_steps_do_not_consume_is_refused(name: str, first: int, last: int) -> None:
    text = f"{name}={WINDOWS.get(name, '{0}:{1}').format(first, last, last + 5000)}"
    with pytest.raises(UsageError, match=rf"changes nothing in {CONSUMED}: no batch of the change is among them"):
        planned(SPIKE, text)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("set=optimizer.clip=1.0", "the run's config has that value already"),
        ("precision=fp32", "the run's config has that value already"),
        ("lr-smooth=340", "the replay ends before that step"),
        ("lr-scale=1", "a factor of 1 keeps every rate"),
        ("state=300", "the replay starts with that state"),
        ("moments=restored", "no resume in these steps left out a part of the state"),
        ("distinct", "the run recorded no repetition among them"),
        ("replace=312@312", "they are the same batches"),
    ],
)
def test_so_is_a_step_or_a_value_without_effect(change: str, why: str) -> None:
    with pytest.raises(UsageError, match=rf"changes nothing in {CONSUMED}: {why}\. Choose another value"):
        planned(SPIKE, change)


def test_nothing_is_written_for_a_refused_change(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    with pytest.raises(UsageError, match="changes nothing"):
        plan(ReplayRequest(run, from_step=4, changes=(Change.from_text("skip=1:3"),), trusted=True))
    assert not (run / "postmortem").exists()


@pytest.mark.parametrize(
    "change",
    [
        "skip=339:400", "skip=0:301", "move=900:901@312", "move=312:313@900", "mask=312", "drop-rows=312@0",
        "unmask=312", "replace=312", "set=optimizer.clip=0.1", "precision=fp16", "lr-smooth=339", "lr-scale=0.5",
        "state=200", "moments=estimated:5", "noise=1", "clip=0.1", "beta2=0.9",
    ],
)  # fmt: skip
def test_what_may_act_is_planned(change: str) -> None:
    assert notes(planned(SPIKE, change)) == []


def test_what_a_resume_lost_can_be_restored_only_where_it_happened() -> None:
    resume = next(s.first_step for s in open_run(RESET).segments if s.attempt > 0)
    start = max(c.step for c in open_run(RESET).checkpoints if c.complete and c.step <= resume)
    assert notes(planned(RESET, "moments=restored", start=start, until=resume + 5)) == []


def test_a_skip_moves_the_batches_of_another_change_into_the_steps() -> None:
    with pytest.raises(UsageError, match="mask the rare tokens"):
        planned(SPIKE, "mask=345")
    assert notes(planned(SPIKE, "skip=320:330", "mask=345")) == []


def test_of_several_windows_those_without_effect_are_named() -> None:
    (note,) = notes(planned(SPIKE, "skip=200:210,312:313"))
    assert note == (
        "batches [200, 210) are not among those of steps [300, 340), which consume batches [300, 312), [313, 341)"
    )


def test_a_suggested_skip_that_the_steps_do_not_reach_is_not_made() -> None:
    made = plan(ReplayRequest(SPIKE, until=310))
    assert made.spec.changes == () and "come after the last replayed step" in made.lines[1][1]


def test_a_job_from_elsewhere_is_driven_and_the_plan_says_so(tmp_path: Path) -> None:
    spec = make_spec(SPIKE, tmp_path / "out", 300, 340, ["skip=200:210"])
    (tmp_path / "job.json").write_text(spec.to_json())
    (note,) = notes(plan_from_file(tmp_path / "job.json", None, None, trusted=False))
    assert note.startswith("skip batches [200, 210): changes nothing in steps [300, 340)")


@pytest.mark.parametrize("text", ["312-512", "312–512", "312..512", "312 - 512"])
@pytest.mark.parametrize("name", ["skip", "mask", "unmask", "distinct"])
def test_a_window_in_another_form_is_told_the_form(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=r"expected .*A:B.*; batches 312 to 511 are 312:512"):
        parse_change(f"{name}={text}")


class TestDriven:
    """What only the replay can show."""

    @pytest.mark.parametrize(
        ("change", "idle"),
        [("clip=1000000", True), ("clip=0.001", False), ("lr-scale=0.5", False),
         ("skip=1:3", True), ("skip=5:7", False), ("beta2=0.5", False), ("noise=3", False)],
    )  # fmt: skip
    def test_the_result_names_the_changes_that_did_nothing(self, tmp_path: Path, change: str, idle: bool) -> None:
        result = drive(small_run(tmp_path / "run"), tmp_path / "out", 4, STEPS, change)
        assert result.idle == (result.changes if idle else ())

    def test_a_mask_without_rare_tokens_and_rows_that_are_all_sound(self, tmp_path: Path) -> None:
        for change, idle in (("unmask=302:303", True), ("drop-rows=302:303", True), ("drop-rows=302:303@0", False)):
            result = drive(SPIKE, tmp_path / change.partition("=")[0] / str(idle), 300, 304, change)
            assert result.idle == (result.changes if idle else ()), change

    def test_an_idle_change_is_not_judged_where_bits_cannot_tell(self, tmp_path: Path) -> None:
        run = open_run(worked_example(tmp_path / "run"))
        incident = diagnose(run).incidents[0]
        text = "clip the gradient norm at 1e+06"
        result = ReplayResult(
            "", 0, 400, (text,), 400, 400, ("loss",), (), {"loss": 3}, ("torch then, now",), "", 0.0, 0.0
        )
        result = replace(result, compared=0)  # as on another machine: nothing is equal bit for bit
        changes = (Change.from_text("clip=1000000"),)
        acting = judge_single(run, incident, run, result, changes, None, "")
        idle = judge_single(run, incident, run, replace(result, idle=(text,)), changes, None, "")
        assert acting.outcome == "persists"
        assert idle.outcome == "" and "it changed nothing in the replayed steps" in idle.text
