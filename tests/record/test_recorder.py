"""Recorder: what a loop hands over is what a reader finds."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from postmortem.errors import UsageError
from postmortem.record import Recorder, RecordingWarning
from postmortem.run.rows import LineReport, read_objects
from postmortem.sources import open_run

ROOT = Path(__file__).parents[2]


def journal(run: Path) -> list[dict[str, Any]]:
    return [event for _, event in read_objects(run / "journal.jsonl", LineReport("journal.jsonl"), strict_text=False)]


def manifest(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def tail_rows(run: Path, table: str = "metrics", attempt: int = 0, rank: int = 0) -> list[dict[str, Any]]:
    tail = run / table / f"tail-{attempt}-{rank}.jsonl"
    return [row for _, row in read_objects(tail, LineReport(tail.name), strict_text=False)] if tail.exists() else []


def test_what_is_logged_comes_back(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.int64).reshape(2, 6)
    before = time.time()
    with Recorder(tmp_path / "run", config={"lr": 3e-4}, manifest={"seed": 7, "dtype": "bf16"}) as rec:
        for step in range(5):
            rec.batch(step, ids + step, index=step + 10, source="shard-3", sample_ids=["a", "b"])
            rec.log(step, {"loss": np.float32(2.5), "grad_norm": None}, lr=3e-4, loss_scale=np.array([8.0]))
        rec.log(2, eval_loss=2.25)
    run = open_run(tmp_path / "run")
    loss, scale, evaluated, clock = (run.series(name) for name in ("loss", "loss_scale", "eval_loss", "time"))
    assert loss is not None and scale is not None and evaluated is not None and clock is not None
    np.testing.assert_array_equal(loss.value, [2.5] * 5)
    np.testing.assert_array_equal(scale.value, [8.0] * 5)
    assert evaluated.at(2) == 2.25 and len(evaluated) == 1 and run.series("grad_norm") is None
    assert before <= clock.value[0] <= time.time()
    index, hashes, names = run.series("batch_index"), run.labels("batch_hash"), run.labels("sample_ids")
    assert index is not None and hashes is not None and names is not None
    np.testing.assert_array_equal(index.value, np.arange(10, 15))
    assert len({hashes.at(step) for step in range(5)}) == 5 and names.at(0) == ["a", "b"]
    assert run.manifest.seed == 7 and run.manifest.config == {"lr": 3e-4} and run.manifest.world_size == 1
    assert [event.event for event in run.journal] == ["run_start", "run_end"]
    assert run.journal[-1].keys["status"] == "completed" and run.journal[-1].step == 5
    assert run.notes == ()
    assert not list((tmp_path / "run").glob(".*")) and not list((tmp_path / "run" / "metrics").glob("tail-*"))


def test_rows_are_on_disk_after_the_flush_interval(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", flush_interval_s=0.05, provenance=False) as rec:
        rec.log(0, loss=1.0)
        deadline = time.monotonic() + 10
        while not tail_rows(tmp_path / "run") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [row["loss"] for row in tail_rows(tmp_path / "run")] == [1.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_row_is_on_disk_before_log_returns(tmp_path: Path, bad: float) -> None:
    with Recorder(tmp_path / "run", flush_interval_s=60, provenance=False) as rec:
        rec.log(0, loss=1.0)
        assert not tail_rows(tmp_path / "run")
        rec.log(1, loss=bad)
        assert [row["step"] for row in tail_rows(tmp_path / "run")] == [0, 1]
        assert journal(tmp_path / "run")[-1] | {"time": 0} == {
            "event": "incident", "step": 1, "time": 0, "kind": "nonfinite", "columns": ["loss"]
        }  # fmt: skip
        assert rec.something_moved_recently
        time.sleep(0.2)  # the background thread was woken, too
        for step in range(2, 200):  # it stays so: one write and one incident, not two hundred
            rec.log(step, loss=bad)
        assert len(tail_rows(tmp_path / "run")) == 2
        assert not rec.something_moved_recently
    loss = open_run(tmp_path / "run").series("loss")
    assert loss is not None and len(loss) == 200 and not np.isfinite(loss.value[1:]).any()
    assert [event["event"] for event in journal(tmp_path / "run")].count("incident") == 1


def test_a_standing_nan_of_ones_own_does_not_hide_the_loss(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", flush_interval_s=60, provenance=False) as rec:
        for step in range(3):
            rec.log(step, loss=1.0, my_score=math.nan)
        assert len(tail_rows(tmp_path / "run")) == 1 and len(journal(tmp_path / "run")) == 1
        rec.log(3, loss=math.nan, my_score=math.nan)
        assert len(tail_rows(tmp_path / "run")) == 4
        assert journal(tmp_path / "run")[-1]["columns"] == ["loss"]


def test_an_incident_and_an_event_are_on_disk_at_once(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", flush_interval_s=60, provenance=False) as rec:
        rec.log(4, loss=1.0)
        rec.incident(4, "hang", waited_s=30)
        assert journal(tmp_path / "run")[-1]["kind"] == "hang" and len(tail_rows(tmp_path / "run")) == 1
        rec.event("rollback", 4, from_step=4, to_step=1)
        assert journal(tmp_path / "run")[-1]["to_step"] == 1


def test_values_are_those_at_the_time_of_the_call(tmp_path: Path) -> None:
    array, listed = np.zeros(3), [1, 2]
    with Recorder(tmp_path / "run", flush_interval_s=60, provenance=False) as rec:
        rec.log(0, loss=array[:1], per_expert=array, worst_token_ids=listed)
        array += 1
        listed.append(3)
    read = open_run(tmp_path / "run")
    experts, worst, loss = read.labels("per_expert"), read.labels("worst_token_ids"), read.series("loss")
    assert experts is not None and worst is not None and loss is not None
    assert experts.at(0) == [0.0, 0.0, 0.0] and worst.at(0) == [1, 2] and loss.at(0) == 0.0


def test_attached_columns_join_the_next_row_only(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", provenance=False) as rec:
        rec.attach({"param_norm": 3.0, "loss": 9.0})
        rec.attach({"update_rms": 0.5})
        rec.log(0, loss=1.0)
        rec.log(1, loss=2.0)
    read = open_run(tmp_path / "run")
    loss, norm, rms = read.series("loss"), read.series("param_norm"), read.series("update_rms")
    assert loss is not None and norm is not None and rms is not None
    np.testing.assert_array_equal(loss.value, [1.0, 2.0])
    assert len(norm) == 1 and len(rms) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "completed"), (ValueError, "failed"), (KeyboardInterrupt, "interrupted"), (SystemExit, "interrupted")],
)
def test_the_journal_says_how_it_ended(tmp_path: Path, error: type[BaseException] | None, status: str) -> None:
    def train() -> None:
        with Recorder(tmp_path / "run", provenance=False) as rec:
            rec.log(0, loss=1.0)
            if error is not None:
                raise error(1)

    if error is None:
        train()
    else:
        with pytest.raises(error):
            train()
    last = journal(tmp_path / "run")[-1]
    assert (last["event"], last["status"], last["step"]) == ("run_end", status, 1)
    assert last.get("error") == (None if error is None else error.__name__)


def test_reopening_goes_on_as_the_next_attempt(tmp_path: Path) -> None:
    for attempt, steps in enumerate([range(10), range(6, 15), range(12, 20)]):
        with Recorder(tmp_path / "run", provenance=False) as rec:
            assert rec.attempt == attempt
            if attempt:
                rec.resumed(steps[0], tmp_path / "run" / "recovery" / "step-00000006.dcp", restored=["model"])
            for step in steps:
                rec.log(step, loss=float(attempt))
    run = open_run(tmp_path / "run")
    loss = run.series("loss")
    assert loss is not None
    np.testing.assert_array_equal(loss.value, [0.0] * 6 + [1.0] * 6 + [2.0] * 8)
    assert [segment.first_step for segment in run.segments] == [0, 6, 12]
    names = [event["event"] for event in journal(tmp_path / "run")]
    assert names == ["run_start", "run_end", "reopen", "resume", "run_end", "reopen", "resume", "run_end"]
    resume = journal(tmp_path / "run")[3]
    assert resume["from_step"] == 6 and resume["checkpoint"] == "recovery/step-00000006.dcp"


def test_going_back_in_one_process_is_a_segment_of_its_own(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", provenance=False) as rec:
        for step in range(10):
            rec.log(step, loss=1.0)
        rec.event("rollback", 9, from_step=9, to_step=5, skip=[5, 7], reason="spike")
        rec.resumed(5)
        assert rec.attempt == 1
        for step in range(5, 12):
            rec.log(step, loss=2.0)
    with Recorder(tmp_path / "run", provenance=False) as rec:
        assert rec.attempt == 2
        rec.log(12, loss=3.0)
    run = open_run(tmp_path / "run")
    loss = run.series("loss")
    assert loss is not None
    np.testing.assert_array_equal(loss.value, [1.0] * 5 + [2.0] * 7 + [3.0])
    assert [(s.attempt, s.first_step, s.discarded) for s in run.segments] == [
        (0, 0, True),
        (1, 5, False),
        (2, 12, False),
    ]


def test_changes_of_config_and_surroundings_are_journaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"lr": 3e-4, "optimizer": {"betas": (0.9, 0.95), "name": "adamw"}, "gone": 1}
    with Recorder(tmp_path / "run", config=first) as rec:
        rec.log(0, loss=1.0)
    with Recorder(tmp_path / "run", config=first) as rec:
        rec.log(1, loss=1.0)
    assert not [event for event in journal(tmp_path / "run") if event["event"].endswith("_change")]
    monkeypatch.setattr("platform.python_version", lambda: "9.9.9")
    second = {"lr": 1e-4, "optimizer": {"betas": (0.9, 0.99), "name": "adamw"}, "new": "x"}
    with Recorder(tmp_path / "run", config=second) as rec:
        rec.log(40, loss=1.0)
        rec.log(41, loss=1.0)
    told = [event for event in journal(tmp_path / "run") if event["event"] == "config_change"]
    assert {event["key"]: (event["old"], event["new"]) for event in told} == {
        "lr": (3e-4, 1e-4), "optimizer.betas": ([0.9, 0.95], [0.9, 0.99]), "gone": (1, None), "new": (None, "x"),
    }  # fmt: skip
    assert {event["step"] for event in told} == {40}
    around = [event for event in journal(tmp_path / "run") if event["event"] == "environment_change"]
    assert len(around) == 1 and around[0]["changed"]["environment.python"][1] == "9.9.9" and around[0]["step"] == 40
    assert manifest(tmp_path / "run")["config"]["lr"] == 1e-4


def test_run_json_is_completed_and_loses_no_key(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"id": "mine", "lineage": {"parent": "p"}, "config": {"a": 1}}')
    Recorder(tmp_path / "run", manifest={"seed": 3}, provenance=False).close()
    found = manifest(tmp_path / "run")
    assert found["id"] == "mine" and found["lineage"] == {"parent": "p"} and found["config"] == {"a": 1}
    assert found["seed"] == 3 and found["format_version"] == 1
    assert found["ranks"] == {"0": {"attempt": 0}} and found["hashes"]["batch"].startswith("xxh3_128")
    Recorder(tmp_path / "run", attempt=1).close()
    assert manifest(tmp_path / "run")["ranks"]["0"].keys() == {"host", "device", "pid", "attempt"}


def test_rows_outlive_a_damaged_run_json(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{broken")
    with pytest.warns(RecordingWarning, match=r"run.json is not completed.*not JSON"):
        rec = Recorder(tmp_path / "run", provenance=False)
    rec.log(0, loss=1.0)
    rec.close()
    assert (tmp_path / "run" / "run.json").read_text() == "{broken"
    assert list((tmp_path / "run" / "metrics").glob("part-*.parquet"))


def test_a_directory_of_the_bare_writer_is_gone_on_with(tmp_path: Path) -> None:
    from postmortem.record.writer import RunWriter

    for attempt in range(3):
        with RunWriter(tmp_path / "run", {"seed": 1}, attempt=attempt) as writer:
            writer.log(attempt, {"loss": 1.0})
    with Recorder(tmp_path / "run", provenance=False) as rec:
        assert rec.attempt == 3
        rec.log(3, loss=1.0)


def test_ranks_write_shards_that_readers_merge(tmp_path: Path) -> None:
    recorders = [Recorder(tmp_path / "run", rank=rank, world_size=2, provenance=False) for rank in range(2)]
    for step in range(4):
        for rank, rec in enumerate(recorders):
            rec.log(step, loss=float(step + rank), param_hash=f"h{rank}")
            rec.batch(step, [[step, rank]])
    for rec in recorders:
        with rec:
            pass
    run = open_run(tmp_path / "run")
    loss, one, hashes = run.series("loss"), run.series("loss/rank1"), run.labels("param_hash/rank1")
    assert run.ranks == (0, 1) and loss is not None and one is not None and hashes is not None
    np.testing.assert_array_equal(loss.value, np.arange(4) + 0.5)
    np.testing.assert_array_equal(one.value, np.arange(4) + 1.0)
    assert hashes.at(0) == "h1" and run.manifest.world_size == 2
    assert set(manifest(tmp_path / "run")["ranks"]) == {"0", "1"}
    assert [event["event"] for event in journal(tmp_path / "run")] == ["run_start", "run_end"]


def test_a_second_rank_joins_the_attempt_of_the_first(tmp_path: Path) -> None:
    for _ in range(2):  # two attempts of rank 0 alone
        Recorder(tmp_path / "run", rank=0, world_size=1, provenance=False).close()
    first = Recorder(tmp_path / "run", rank=0, world_size=2, provenance=False)
    second = Recorder(tmp_path / "run", rank=1, world_size=2, provenance=False)
    assert (first.attempt, second.attempt) == (2, 2)
    second.incident(3, "hang")
    assert journal(tmp_path / "run")[-1]["rank"] == 1
    first.close()
    second.close()


def test_rank_and_world_size_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    rec = Recorder(tmp_path / "run", provenance=False)
    rec.log(0, loss=1.0)
    rec.flush()
    assert (rec.rank, rec.world_size) == (3, 8) and len(tail_rows(tmp_path / "run", rank=3)) == 1
    rec.close()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"flush_interval_s": 0}, "flush_interval_s is 0"),
        ({"token_ids": "some"}, "token_ids is 'some'"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"rank": 2, "world_size": 2}, "rank 2 is not in a world of 2"),
    ],
)
def test_arguments_that_cannot_be_meant(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recorder(tmp_path / "run", **keys)
    assert not (tmp_path / "run").exists()


def test_what_no_cell_holds_is_said_once_and_costs_that_cell_only(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", provenance=False) as rec:
        with pytest.warns(RecordingWarning, match="model is a object") as said:
            for step in range(3):
                rec.log(step, loss=1.0, model=object())
        assert len(said) == 1
        with pytest.warns(RecordingWarning, match="has 5000 elements"):
            rec.log(3, loss=1.0, everything=np.zeros(5000))
        with pytest.warns(RecordingWarning, match="differ in length"):
            rec.batch(3, [[1, 2], [3]])
    loss = open_run(tmp_path / "run").series("loss")
    assert loss is not None and len(loss) == 4


class Unreadable:
    def __float__(self) -> float:
        raise ValueError("not computed yet")


@pytest.mark.parametrize("step", [-1, 1.5, None, "3", 2**70])
def test_a_step_that_is_none_costs_its_row_and_no_training(tmp_path: Path, step: Any) -> None:
    with Recorder(tmp_path / "run", provenance=False) as rec:
        with pytest.warns(RecordingWarning, match="is left out: steps are counted") as said:
            rec.log(step, loss=1.0)
            rec.batch(step, [[1, 2]])
        assert len(said) == 1
        rec.log(0, loss=1.0)
        assert rec.logged == 0
    assert open_run(tmp_path / "run").row_steps.tolist() == [0]


def test_a_value_that_cannot_be_read_costs_that_cell_only(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", provenance=False) as rec:
        with pytest.warns(RecordingWarning, match="not computed yet"):
            rec.log(0, loss=1.0, late=Unreadable())
        odd: dict[Any, float] = {1: math.nan, "loss": 1.0}
        rec.log(1, odd)
    loss = open_run(tmp_path / "run").series("loss")
    assert loss is not None and len(loss) == 2


def test_columns_do_not_move_a_row(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", provenance=False) as rec:
        rec.log(4, {"step": 77, "rank": 3, "attempt": "last", "loss": 1.0})
    run = open_run(tmp_path / "run")
    assert run.row_steps.tolist() == [4] and run.ranks == (0,)


def test_a_config_that_cannot_be_told_costs_run_json_only(tmp_path: Path) -> None:
    config: dict[str, Any] = {"lr": 1.0}
    config["self"] = config
    with pytest.warns(RecordingWarning, match=r"run\.json is not completed"):
        rec = Recorder(tmp_path / "run", config=config, provenance=False)
    with rec:
        rec.log(0, loss=1.0)
    assert open_run(tmp_path / "run").row_steps.tolist() == [0]


def test_a_closed_recorder_says_so_once(tmp_path: Path) -> None:
    rec = Recorder(tmp_path / "run", provenance=False)
    rec.close()
    rec.close()
    with pytest.warns(RecordingWarning, match="is closed"):
        rec.log(0, loss=1.0)
    rec.event("checkpoint", 0)
    rec.batch(0, [1])
    assert [event["event"] for event in journal(tmp_path / "run")] == ["run_start"]


def test_a_clock_that_is_set_back_is_journaled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, real = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: real() + now[0])
    with Recorder(tmp_path / "run", flush_interval_s=0.02, provenance=False) as rec:
        rec.log(0, loss=1.0)
        time.sleep(0.1)
        now[0] = -3600.0
        rec.log(1, loss=1.0)
        deadline = time.monotonic() + 10
        while len(journal(tmp_path / "run")) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.1)
    told = [event for event in journal(tmp_path / "run") if event["event"] == "clock_went_back"]
    assert len(told) == 1 and 3599 < told[0]["seconds"] < 3601
    loss = open_run(tmp_path / "run").series("loss")
    assert loss is not None and len(loss) == 2


def test_text_that_is_no_utf_8_and_odd_values_cost_nothing(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", provenance=False) as rec:
        rec.batch(0, [1, 2], source="a\ud800b")
        rec.event("note", 0, text="\ud800", path=Path("x"), nested={1: math.nan})
        rec.log(0, loss=1.0)
    event = journal(tmp_path / "run")[1]
    assert event["text"] == "?" and event["path"] == "x" and event["nested"] == {"1": "NaN"}
    assert open_run(tmp_path / "run").series("loss") is not None


@pytest.mark.processes
def test_importing_and_recording_need_neither_torch_nor_pandas(tmp_path: Path) -> None:
    code = """
import sys
import postmortem.record
assert not {"torch", "pyarrow", "pandas"} & set(sys.modules), "on import"
with postmortem.record.Recorder(sys.argv[1]) as rec:
    for step in range(300):
        rec.batch(step, [[1, 2], [3, 4]], source="s", sample_ids=["a", "b"])
        rec.log(step, loss=2.0)
    rec.log(300, loss=float("nan"))
    assert not {"torch", "pyarrow", "pandas"} & set(sys.modules), "on recording"
assert "pyarrow" in sys.modules and not {"torch", "pandas"} & set(sys.modules), "on compaction"
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ids = open_run(tmp_path / "run").labels("token_ids")
    assert ids is not None and ids.at(300 - 1) == [[1, 2], [3, 4]]


@pytest.mark.processes
def test_what_was_not_closed_is_written_at_exit(tmp_path: Path) -> None:
    code = """
import sys
from postmortem.record import Recorder
rec = Recorder(sys.argv[1], flush_interval_s=60, provenance=False)
rec.log(0, loss=1.0)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], env=environment, check=True)
    loss = open_run(tmp_path / "run").series("loss")
    assert loss is not None and len(loss) == 1 and not (tmp_path / "run" / ".writer-0.lock").exists()


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_neither_writes_nor_keeps_the_lock(tmp_path: Path) -> None:
    rec = Recorder(tmp_path / "run", flush_interval_s=60, provenance=False)
    rec.log(0, loss=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rec.log(1, loss=1.0)
            rec.flush()
            rec.close()
            os._exit(0 if not tail_rows(tmp_path / "run") and time.sleep(2) is None else 1)
    time.sleep(0.5)
    rec.close()
    again = Recorder(tmp_path / "run", provenance=False, on_error="raise")  # the child still lives
    assert again.attempt == 1
    again.close()
    assert os.waitpid(child, 0)[1] == 0
    loss = open_run(tmp_path / "run").series("loss")
    assert loss is not None and len(loss) == 1
