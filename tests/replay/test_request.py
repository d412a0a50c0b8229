"""What a bare `replay RUN` does comes from the diagnosis."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from postmortem.change import Change
from postmortem.errors import CannotWrite, UnreadableInput, UsageError
from postmortem.experiment.target import find_target
from postmortem.replay.request import ReplayRequest, adopt_arithmetic, plan, plan_from_file, replay_folder
from postmortem.replay.spec import ReplaySpec
from postmortem.run.recorded import RecordedRun
from postmortem.sources import open_run
from tests.replay.small import STEPS, drive, edited, small_run
from tests.samples import sample

pytestmark = pytest.mark.heavy
SPIKE = sample("19-spike-001")
SKIP = (Change.from_text("skip=312:313"),)


def spec(asked: ReplayRequest) -> ReplaySpec:
    return plan(asked).spec


def test_the_newest_healthy_checkpoint_the_suspect_batch_and_the_verification() -> None:
    found = plan(ReplayRequest(SPIKE))
    got = found.spec
    assert (got.from_step, got.until, got.changes, got.attempt) == (300, 514, SKIP, None)
    assert got.reason == "loss_spike" and got.checkpoint is None and found.imports == ""
    assert Path(got.out) == SPIKE / "postmortem" / "replays" / "step-300-skip-312-313"
    assert found.lines[:2] == (
        ("plan", "steps [300, 514) of 19-spike-001, from rollback/step-00000300.dcp"),
        ("change", "skip batches [312, 313) (suggested for the loss_spike at step 312)"),
    )


def test_what_is_said_stands_and_the_rest_is_filled_in() -> None:
    assert spec(ReplayRequest(SPIKE, from_step=200)).changes == SKIP
    assert spec(ReplayRequest(SPIKE, until=330)).until == 330
    only = spec(ReplayRequest(SPIKE, changes=(Change.from_text("lr-scale=0.5"),)))
    assert [str(one) for one in only.changes] == ["lr-scale=0.5"], "no skip is slipped in beside it"
    nothing = plan(ReplayRequest(SPIKE, changes=()))
    assert nothing.spec.changes == () and nothing.lines[1] == ("change", "nothing: a null replay")


def test_behind_the_incident_nothing_is_left_to_change() -> None:
    found = plan(ReplayRequest(SPIKE, from_step=400))
    assert found.spec.changes == () and found.spec.until == 2000
    assert "there is no incident after the start" in found.lines[1][1]


def test_a_checkpoint_is_named_by_its_path() -> None:
    found = spec(ReplayRequest(SPIKE, checkpoint="rollback/step-00000200.dcp"))
    assert (found.from_step, found.checkpoint) == (200, "rollback/step-00000200.dcp")
    assert (found.until, found.changes) == (514, SKIP)
    with pytest.raises(UsageError, match="is of step 200, but --from-step is 300"):
        plan(ReplayRequest(SPIKE, from_step=300, checkpoint="rollback/step-00000200.dcp"))
    with pytest.raises(UsageError, match="has no such checkpoint"):
        plan(ReplayRequest(SPIKE, checkpoint="../20-run-002/rollback/step-00000600.dcp"))


def test_where_no_batch_is_suspected_nothing_is_changed_and_the_next_word_is_prove() -> None:
    found = plan(ReplayRequest(sample("20-run-002")))
    assert found.spec.changes == () and found.spec.from_step in (600, 700)
    assert "no batch is suspected" in found.lines[1][1] and "postmortem prove" in found.lines[1][1]


def test_a_run_without_an_incident_has_to_be_told_where_to_start(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    with pytest.raises(
        UsageError, match="has no incident, so there is no suggested start: name a step with --from-step N"
    ):
        plan(ReplayRequest(run, trusted=True))
    assert spec(ReplayRequest(run, from_step=4, trusted=True)).until == STEPS
    with pytest.raises(UsageError, match="there is no step to drive; the run's last step is 11"):
        plan(ReplayRequest(run, from_step=8, until=8, trusted=True))
    with pytest.raises(UsageError, match="the run has no complete checkpoint of step 5"):
        plan(ReplayRequest(run, from_step=5, trusted=True))


def test_an_incident_that_was_rolled_back_is_replayed_as_its_attempt_saw_it(tmp_path: Path) -> None:
    drive(SPIKE, tmp_path / "run", 300, 420, "skip=312:313")
    found = plan(ReplayRequest(tmp_path / "run"))
    assert found.spec.attempt == 0 and found.spec.from_step == 300 and found.spec.changes == SKIP
    assert "as attempt 0 saw it" in found.lines[0][1]


def test_a_foreign_program_is_told_of_before_anything_is_done(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    with pytest.raises(UsageError, match="--trust"):
        plan(ReplayRequest(run, from_step=4))
    told = plan(ReplayRequest(run, from_step=4, trusted=True)).imports
    assert told.startswith("tests.replay.ranks_program:build from ") and told.endswith("ranks_program.py")


class TestPlace:
    def test_the_same_order_goes_to_the_same_place(self, tmp_path: Path) -> None:
        run = small_run(tmp_path / "run")
        asked = ReplayRequest(run, from_step=4, changes=(Change.from_text("skip=5:7"),), trusted=True)
        first = spec(asked)
        drive(run, Path(first.out), 4, STEPS, "skip=5:7")
        assert spec(asked).out == first.out

    def test_another_one_never_takes_the_place_of_a_finished_one(self, tmp_path: Path) -> None:
        run = small_run(tmp_path / "run")
        asked = ReplayRequest(run, from_step=4, changes=(), trusted=True)
        first = spec(asked)
        drive(run, Path(first.out), 4, STEPS)
        second = spec(replace(asked, until=8))
        assert second.out == f"{first.out}-2"
        Path(second.out).mkdir()
        (Path(second.out) / "notes.txt").write_text("somebody's")
        assert spec(replace(asked, until=8)).out == f"{first.out}-3"
        (Path(first.out) / "replayed.json").unlink()
        assert spec(replace(asked, until=8)).out == first.out, "one that broke off is nobody's"

    def test_a_name_is_a_name_of_a_folder(self) -> None:
        changes = (Change.from_text("set=a/../b=\x1b[2J" + "x" * 300), Change.from_text("noise=1"))
        name = replay_folder(Path("run"), ReplaySpec("run", "", 3, 9, changes)).name
        assert name.startswith("step-3-set-a----b") and len(name) <= 80 and name.replace("-", "").isalnum()


def test_an_order_from_a_file_does_not_bring_its_own_trust(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    file = tmp_path / "order.json"
    file.write_text(ReplaySpec(str(run), str(tmp_path / "out"), 4, 8, trusted=True).to_json())
    with pytest.raises(UsageError, match="--trust"):
        plan_from_file(file, None, None, trusted=False)
    assert plan_from_file(file, None, None, trusted=True).spec.trusted
    file.write_text(ReplaySpec(str(run), str(tmp_path / "out"), 4, 8, program="evil:build").to_json())
    with pytest.raises(UsageError, match="names the program 'evil:build'"):
        plan_from_file(file, None, None, trusted=False)


def test_a_parameters_only_checkpoint_is_the_last_choice(tmp_path: Path) -> None:
    def bare(journal: Path) -> None:
        lines = journal.read_text().splitlines(keepends=True)
        changed = [line.replace('"full"', '"parameters"') if "step-00000300" in line else line for line in lines]
        journal.write_text("".join(changed))

    run = edited(SPIKE, tmp_path / "run", lambda manifest: None)
    bare(run / "journal.jsonl")
    assert spec(ReplayRequest(run)).from_step == 200


@pytest.mark.processes
def test_what_cannot_be_done_is_said_before_torch_is_imported() -> None:
    code = (
        "import sys; from pathlib import Path; from postmortem.errors import UsageError\n"
        "from postmortem.replay.request import ReplayRequest, plan\n"
        f"run = Path({str(SPIKE)!r})\n"
        "plan(ReplayRequest(run))\n"
        "try: plan(ReplayRequest(run, from_step=5))\n"
        "except UsageError as error: print('torch' in sys.modules, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False the run has no complete checkpoint of step 5")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("manifest", ["run.json", "run.yaml", ""])
def test_what_cannot_be_read_is_left_to_whoever_plans(tmp_path: Path, manifest: str) -> None:
    if manifest:
        os.mkfifo(tmp_path / manifest)  # read, it would wait for ever
    adopt_arithmetic(tmp_path, None, None)
    adopt_arithmetic(tmp_path, tmp_path / "absent.json", "recorded")
    with pytest.raises(UnreadableInput):
        plan(ReplayRequest(tmp_path))


def test_a_link_does_not_take_the_replays_out_of_the_run(tmp_path: Path) -> None:
    run = shutil.copytree(SPIKE, tmp_path / "run", symlinks=True)
    (tmp_path / "elsewhere").mkdir()
    (run / "postmortem").symlink_to(tmp_path / "elsewhere")
    for prepare in (lambda: plan(ReplayRequest(run)), lambda: find_target(run, "prove")):
        with pytest.raises(CannotWrite, match="outside"):
            prepare()
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("changes", [[{"name": "skip", "value": "312:512"}], "skip=312:512", {"skip": 1}, [None]])
def test_a_lineage_that_tells_no_changes_is_one_message(tmp_path: Path, changes: object) -> None:
    lineage = {"run": "x", "from_step": 4, "phases": [{"from_step": 4, "changes": changes}]}
    run = edited(small_run(tmp_path / "run"), tmp_path / "other", lambda manifest: manifest.update(lineage=lineage))
    with pytest.raises(UnreadableInput, match=r"run\.json: lineage: changes of a phase: expected a list of texts"):
        _ = RecordedRun(open_run(run)).earlier_change_sets


def test_a_lineage_without_a_step_is_one_message(tmp_path: Path) -> None:
    lineage = {"run": "x", "from_step": 4, "phases": [{"changes": ["skip=1:2"]}]}
    run = edited(small_run(tmp_path / "run"), tmp_path / "other", lambda manifest: manifest.update(lineage=lineage))
    with pytest.raises(UnreadableInput, match="a phase without the step from which it acts"):
        _ = RecordedRun(open_run(run)).earlier_change_sets
