"""Replays: nothing changed is bit for bit the run, something changed is what it says, and nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from postmortem.checkpoint import Policy
from postmortem.checkpoint.health import health_in
from postmortem.errors import CannotWrite, UnreadableInput, UsageError
from postmortem.lab import make_run
from postmortem.lab.program import build
from postmortem.record import Recorder
from postmortem.record.lock import WriterLock
from postmortem.replay.comparison import DataChanged
from postmortem.replay.run_replay import ProgramFailed, SaveFailed
from postmortem.replay.start_checkpoint import usable_checkpoints
from postmortem.run.recorded import RecordedRun
from postmortem.run.replayed import RESULT_FILE
from postmortem.sources import open_run
from postmortem.training_loop import drive as train
from tests.replay import ranks_program
from tests.replay.small import STEPS, column, drive, drive_as_recorded, edited, small_run
from tests.samples import NAMES, sample

pytestmark = [pytest.mark.bits, pytest.mark.heavy]
SHORT = 40  # steps after a checkpoint
RECORDED = [(name, RecordedRun(open_run(sample(name)))) for name in NAMES]
HELD = [
    (name, one.step)
    for name, recorded in RECORDED
    for one in usable_checkpoints(recorded)
    if health_in(recorded.run).of(one).healthy
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("small") / "run")


class TestNull:
    @pytest.mark.processes
    @pytest.mark.parametrize(("name", "step"), HELD)
    def test_a_sample_run_is_reproduced_bit_for_bit_from_every_checkpoint(
        self, tmp_path: Path, name: str, step: int
    ) -> None:
        result = drive_as_recorded(sample(name), tmp_path / "out", step, step + SHORT)
        assert result.exact, (result.differences, result.arithmetic)
        assert result.compared == SHORT
        assert set(result.columns) == {"batch_hash", "loss", "grad_norm", "param_hash"}

    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "step"), [*HELD, *((name, 0) for name in NAMES)])
    def test_to_the_end(self, tmp_path: Path, name: str, step: int) -> None:
        end = RecordedRun(open_run(sample(name))).last_step + 1
        result = drive_as_recorded(sample(name), tmp_path / "out", step, end)
        assert result.exact and result.compared == end - step, result.differences

    def test_from_a_checkpoint_that_is_named_by_role_and_step(self, tmp_path: Path, small: Path) -> None:
        run = edited(small, tmp_path / "run", lambda manifest: None)
        (run / "rollback" / "step-00000004.dcp").rename(run / "rollback-00000004")
        assert drive(run, tmp_path / "out", 4, STEPS).exact

    def test_from_scratch(self, tmp_path: Path, small: Path) -> None:
        assert drive(small, tmp_path / "out", 0, STEPS).exact

    def test_the_new_run_is_the_run_again_with_its_lineage(self, tmp_path: Path, small: Path) -> None:
        before = _content(small)
        drive(small, tmp_path / "out", 4, STEPS, reason="loss_spike")
        assert _content(small) == before, "a replay never writes into its parent"
        a, b = open_run(small), open_run(tmp_path / "out")
        assert b.id == "out" and b.manifest.lineage is not None and b.manifest.lineage["run"] == a.id
        assert [(s.attempt, s.discarded) for s in b.segments] == [(0, True), (1, False)]
        left, right = a.series("loss"), b.series("loss")
        assert left is not None and right is not None and left.value.tolist() == right.value.tolist()
        (rollback,) = [event for event in b.journal if event.event == "rollback"]
        assert rollback.keys["to_step"] == 4 and rollback.keys["from_step"] == STEPS - 1
        assert rollback.keys["skip"] == [] and rollback.keys["reason"] == "loss_spike"
        assert rollback.keys["checkpoint"] == "rollback/step-00000004.dcp" and rollback.keys["attempt"] == 1

    def test_a_replay_of_a_replay(self, tmp_path: Path, small: Path) -> None:
        first = drive(small, tmp_path / "a", 4, STEPS, "skip=5:7", save_at=(8,))
        assert not first.exact
        again = drive(tmp_path / "a", tmp_path / "b", 8, STEPS)
        assert again.exact and again.state == first.state, "what was changed before holds on"
        assert drive(tmp_path / "a", tmp_path / "c", 4, STEPS).exact, "and from where it began to"
        more = drive(tmp_path / "a", tmp_path / "d", 4, STEPS, "lr-scale=0.5")
        assert {one.step for one in more.differences} == {5} and "batch_hash" not in more.departed

    def test_the_attempt_that_was_left_is_replayed_without_what_came_after(self, tmp_path: Path, small: Path) -> None:
        drive(small, tmp_path / "a", 4, STEPS, "skip=5:7")
        was = drive(tmp_path / "a", tmp_path / "b", 4, STEPS, attempt=0)
        assert was.exact and was.compared == STEPS - 4
        assert was.state == drive(small, tmp_path / "c", 4, STEPS).state

    def test_a_saved_state_is_the_one_that_a_replay_goes_on_from(self, tmp_path: Path, small: Path) -> None:
        whole = drive(small, tmp_path / "a", 0, STEPS, save_at=(6, STEPS))
        assert {path.name for path in (tmp_path / "a" / "rollback").iterdir()} == {
            "step-00000006.dcp",
            "step-00000012.dcp",
        }
        rest = drive(tmp_path / "a", tmp_path / "b", 6, STEPS)
        assert rest.exact and rest.state == whole.state


@pytest.mark.heavy
def test_rollback_and_skip_is_the_run_that_never_saw_the_window(tmp_path: Path) -> None:
    """From the rollback step on: a straight training of the same config, from its first step, that skips."""
    until, windows = 140, ((112, 114), (120, 125))
    run = make_run(tmp_path / "run", fault="long_tail_tokens", seed=42, at=112, steps=until)
    replayed = drive(run, tmp_path / "out", 100, until, "skip=112:114,120:125", save_at=(until,))
    program = build(open_run(run).manifest.config)
    with Recorder(tmp_path / "straight", provenance=False, token_ids="never") as rows:
        train(program, until, rows=rows, skip=windows)
    from postmortem.program_state import digest

    assert replayed.state == digest(program.state_dict())
    a, b = open_run(tmp_path / "straight"), open_run(tmp_path / "out")
    clocks = {"time", "step_time_s", "tokens_per_s"}
    assert set(a.columns) == set(b.columns) and len(a.columns) > 40
    for name in set(a.columns) - clocks:
        for step in range(100, until):
            assert str(column(a, name, step)) == str(column(b, name, step)), (name, step)


class TestNotTheSame:
    def test_a_changed_dataset_stops_at_the_first_batch(self, tmp_path: Path, small: Path) -> None:
        run = edited(small, tmp_path / "run", lambda manifest: manifest.update(config={"data_seed": 1}))
        with pytest.raises(DataChanged, match=r"batch 4 is the first that differs from what the run consumed") as error:
            drive(run, tmp_path / "out", 4, STEPS)
        assert error.value.exit_code == 5
        assert open_run(tmp_path / "out").row_steps.tolist() == [0, 1, 2, 3, 4], "what is there stays readable"

    def test_a_config_changed_on_purpose_may_change_the_data(self, tmp_path: Path) -> None:
        run = small_run(tmp_path / "run", data_seed=0)
        result = drive(run, tmp_path / "out", 4, 8, "set=data_seed=1")
        assert result.differences[0].column == "batch_hash"

    def test_another_version_of_torch_is_named(self, tmp_path: Path, small: Path) -> None:
        run = edited(small, tmp_path / "run", lambda manifest: manifest["environment"].update(torch="1.0.0", threads=1))
        result = drive(run, tmp_path / "out", 8, STEPS)
        assert result.arithmetic == (f"torch 1.0.0 then, {torch.__version__} now",)

    def test_another_number_of_ranks_is_named_and_only_figures_are_compared(self, tmp_path: Path, small: Path) -> None:
        run = edited(small, tmp_path / "run", lambda manifest: manifest.update(world_size=4))
        result = drive(run, tmp_path / "out", 8, STEPS)
        assert result.arithmetic == ("4 ranks then, 1 now",)
        assert result.columns == ("grad_norm", "loss")


class TestTrouble:
    def test_a_missing_checkpoint_names_those_there_are(self, tmp_path: Path, small: Path) -> None:
        with pytest.raises(UsageError, match=r"of step 5; it has those of steps 0 \(from scratch\), 4, 8"):
            drive(small, tmp_path / "out", 5, STEPS)
        with pytest.raises(UsageError, match="has no such checkpoint"):
            drive(small, tmp_path / "out", 4, STEPS, checkpoint="../elsewhere")
        assert not (tmp_path / "out").exists()

    def test_a_damaged_checkpoint_is_refused(self, tmp_path: Path, small: Path) -> None:
        run = edited(small, tmp_path / "run", lambda manifest: None)
        (file,) = (run / "rollback" / "step-00000008.dcp").glob("*.distcp")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        with pytest.raises(UnreadableInput, match="step-00000008"):
            drive(run, tmp_path / "out", 8, STEPS)

    def test_a_program_that_fails_names_step_and_batch(self, tmp_path: Path, small: Path) -> None:
        run = edited(small, tmp_path / "run", lambda manifest: manifest.update(config={"fails_at": 9}))
        with pytest.raises(
            ProgramFailed, match=r"at step 9, on batch 11: RuntimeError: the shard is not there"
        ) as error:
            drive(run, tmp_path / "out", 4, STEPS, "skip=5:7")
        assert error.value.exit_code == 2
        assert open_run(tmp_path / "out").row_steps[-1] == 8

    def test_a_program_that_cannot_be_built(self, tmp_path: Path, small: Path) -> None:
        run = edited(small, tmp_path / "run", lambda manifest: manifest.update(config={"data_seed": "x"}))
        with pytest.raises(UsageError, match="cannot be built from the run's config: ValueError"):
            drive(run, tmp_path / "out", 4, STEPS)

    def test_more_steps_than_any_training_has_are_refused(self, tmp_path: Path, small: Path) -> None:
        with pytest.raises(UsageError, match=r"steps 4 to 1000000000000000 are more than a replay drives at once"):
            drive(small, tmp_path / "out", 4, 10**15)
        assert not (tmp_path / "out").exists()

    def test_interrupted_it_is_readable_and_done_anew(self, tmp_path: Path, small: Path) -> None:
        def interrupt(step: int, *_: object) -> None:
            if step == 6:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            drive(small, tmp_path / "out", 4, STEPS, on_step=interrupt)
        cut = open_run(tmp_path / "out")
        assert cut.row_steps[-1] == 6 and cut.journal[-1].keys["status"] == "interrupted"
        assert not (tmp_path / "out" / RESULT_FILE).exists()
        assert drive(small, tmp_path / "out", 4, STEPS).exact
        assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing is left lying about"

    def test_a_full_disk_is_one_message(self, tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("postmortem.atomic.shutil.copyfile", full)
        with pytest.raises(CannotWrite, match=r"No space left on device\)\. Free some space"):
            drive(small, tmp_path / "out", 4, STEPS)
        assert list(tmp_path.iterdir()) == []
        monkeypatch.undo()
        monkeypatch.setattr("postmortem.checkpoint.checkpointer.write", full)
        with pytest.raises(SaveFailed, match=r"checkpoint of step 6 could not be saved .*No space left"):
            drive(small, tmp_path / "out", 4, STEPS, save_at=(6,))
        assert open_run(tmp_path / "out").row_steps[-1] == 5

    def test_a_place_that_holds_something_else(self, tmp_path: Path, small: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("years of work")
        with pytest.raises(UsageError, match="already exists and is no replay"):
            drive(small, tmp_path / "out", 4, STEPS)
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="already exists and is no replay"):
            drive(small, tmp_path / "file", 4, STEPS)

    def test_a_place_that_another_process_writes(self, tmp_path: Path, small: Path) -> None:
        drive(small, tmp_path / "out", 4, STEPS)
        lock = WriterLock(tmp_path / "out", 0)
        lock.announce(2)
        try:
            with pytest.raises(UsageError, match="another replay is writing to it"):
                drive(small, tmp_path / "out", 4, STEPS)
        finally:
            lock.release()

    def test_a_log_alone_is_no_run_to_replay(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.csv").write_text("step,loss\n0,1.0\n1,0.9\n")
        with pytest.raises(UsageError, match="only a log"):
            drive(tmp_path / "metrics.csv", tmp_path / "out", 0, 1, program="tests.replay.ranks_program:build")

    @pytest.mark.parametrize("place", ["metrics/part-000001.parquet", "rollback/step-00000004.dcp/checkpoint.json"])
    def test_a_link_in_a_run_is_not_followed(self, tmp_path: Path, small: Path, place: str) -> None:
        run = edited(small, tmp_path / "run", lambda manifest: None)
        (run / place).rename(tmp_path / "secret")
        (run / place).symlink_to(tmp_path / "secret")
        with pytest.raises(UnreadableInput, match=r"outside the run|is a link"):
            drive(run, tmp_path / "out", 4, STEPS)
        assert not (tmp_path / "out").exists()

    def test_a_checkpoint_of_parameters_only_says_that_it_resets(self, tmp_path: Path) -> None:
        from postmortem.checkpoint import Checkpointer, CheckpointWarning

        program = ranks_program.build({})
        policy = Policy(rollback_every=4, rollback_contents="parameters", recovery_every=0, best_k=0)
        with (
            Recorder(tmp_path / "run", manifest={"program": "tests.replay.ranks_program:build"}) as rows,
            pytest.warns(UserWarning, match="resets the optimizer"),
            Checkpointer(rows, program, policy, asynchronous=False) as saves,
        ):
            train(program, 8, rows=rows, checkpointer=saves)
        with (
            pytest.warns(CheckpointWarning, match="the optimizer is reset"),
            pytest.raises(UsageError, match="does not restore the step"),
        ):
            drive(tmp_path / "run", tmp_path / "out", 4, 8)


def _content(folder: Path) -> dict[str, bytes]:
    """Every file but the lock."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_result_is_strict_json_beside_the_rows(tmp_path: Path, small: Path) -> None:
    drive(small, tmp_path / "out", 4, STEPS, "lr-scale=1e23")
    told = json.loads((tmp_path / "out" / RESULT_FILE).read_text(), parse_constant=pytest.fail)
    assert told["changes"] == ["learning rate × 1e+23"]
    assert any(one["replayed"] in ("NaN", "Infinity") for one in told["differences"]), told["differences"]
