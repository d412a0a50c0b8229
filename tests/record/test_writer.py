"""RunWriter: what was written is there, whatever happens to the process that wrote it."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from postmortem import atomic
from postmortem.errors import UnreadableInput
from postmortem.record.lock import WriterLock, attempt_of_writer
from postmortem.record.writer import RunWriter, json_value
from postmortem.run.arrow import merge_tables
from postmortem.run.parts import arrow_table, parts, tails, write_part
from postmortem.run.rows import read_jsonl
from postmortem.sources import open_run

_FOREVER = """
import sys
from pathlib import Path
from postmortem.record.writer import RunWriter

run = RunWriter(Path(sys.argv[1]), {"seed": 1}, tail_limit=20_000)
step = 0
while True:
    run.log(step, {"loss": 1.0 / (step + 1), "lr": 3e-4, "grad_norm": float(step)})
    print(step, flush=True)
    step += 1
"""


def test_rows_come_back_with_null_and_nan_apart(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunWriter(path, {"seed": 7, "dtype": "fp32"}) as run:
        run.event("run_start", 0)
        run.log(0, {"loss": 2.0, "grad_norm": None, "lr": np.float32(0.5)})
        run.log(1, {"loss": math.nan, "grad_norm": math.inf})
        run.log(2, {"loss": 1.0, "grad_norm": -math.inf})
        run.batch(
            2, {"batch_hash": "0012", "token_ids": np.array([[1, 2], [3, 4]]), "worst_token_losses": [math.nan, 1.0]}
        )
    read = open_run(path)
    loss, norm, lr = read.series("loss"), read.series("grad_norm"), read.series("lr")
    assert loss is not None and norm is not None and lr is not None
    np.testing.assert_array_equal(loss.value, [2.0, math.nan, 1.0])
    np.testing.assert_array_equal(norm.step, [1, 2])
    np.testing.assert_array_equal(norm.value, [math.inf, -math.inf])
    assert lr.at(0) == 0.5 and len(lr) == 1
    hashes, ids, worst = read.labels("batch_hash"), read.labels("token_ids"), read.labels("worst_token_losses")
    assert hashes is not None and ids is not None and worst is not None
    assert hashes.at(2) == "0012" and ids.at(2) == [[1, 2], [3, 4]]
    assert math.isnan(worst.at(2)[0]) and worst.at(2)[1] == 1.0
    assert read.manifest.seed == 7 and read.id == "run"
    assert [event.event for event in read.journal] == ["run_start"]
    assert len(read.notes) == 1 and "loss is NaN or infinite in 1 of 3 steps" in read.notes[0]


def test_tails_and_parts_read_the_same(tmp_path: Path) -> None:
    run = RunWriter(tmp_path / "run")
    for step in range(50):
        run.log(step, {"loss": float(step), "grad_norm": None if step % 3 else 1.0 * step})
    before = open_run(tmp_path / "run")
    run.close()
    after = open_run(tmp_path / "run")
    assert not tails(tmp_path / "run" / "metrics") and len(parts(tmp_path / "run" / "metrics")) == 1
    for name in ("loss", "grad_norm"):
        a, b = before.series(name), after.series(name)
        assert a is not None and b is not None
        np.testing.assert_array_equal(a.step, b.step)
        np.testing.assert_array_equal(a.value, b.value)


def test_reopening_appends(tmp_path: Path) -> None:
    for attempt, steps in enumerate([range(10), range(6, 15)]):
        with RunWriter(tmp_path / "run", {"seed": 1}, attempt=attempt) as run:
            for step in steps:
                run.log(step, {"loss": float(attempt)})
    read = open_run(tmp_path / "run")
    loss = read.series("loss")
    assert loss is not None
    np.testing.assert_array_equal(loss.step, np.arange(15))
    np.testing.assert_array_equal(loss.value, [0.0] * 6 + [1.0] * 9)
    assert [(s.first_step, s.last_step, s.kept_until, s.discarded) for s in read.segments] == [
        (0, 9, 6, True),
        (6, 14, 15, False),
    ]
    first = read.series("loss", attempt=0)
    assert first is not None and len(first) == 10


def test_a_torn_line_does_not_swallow_the_next_row(tmp_path: Path) -> None:
    run = RunWriter(tmp_path / "run")
    run.log(0, {"loss": 1.0})
    tail = tmp_path / "run" / "metrics" / "tail-0-0.jsonl"
    with tail.open("ab") as file:
        file.write(b'{"attempt":0,"step":1,"ra')
    torn = open_run(tmp_path / "run")
    assert any("torn" in note and "tail-0-0.jsonl:2" in note for note in torn.notes)
    again = RunWriter(tmp_path / "run", attempt=0)
    again.log(1, {"loss": 2.0})
    loss = open_run(tmp_path / "run").series("loss")
    assert loss is not None
    np.testing.assert_array_equal(loss.step, [0, 1])
    run.close()
    again.close()


def test_a_crash_between_rename_and_removal_leaves_no_double_rows(tmp_path: Path) -> None:
    run = RunWriter(tmp_path / "run")
    for step in range(5):
        run.log(step, {"loss": float(step)})
    tail = tmp_path / "run" / "metrics" / "tail-0-0.jsonl"
    chunks, _ = read_jsonl(tail, tail.name, strict_text=False)
    write_part(tail.parent, merge_tables([arrow_table(chunk) for chunk in chunks]))
    read = open_run(tmp_path / "run")
    loss = read.series("loss")
    assert loss is not None and len(loss) == 5
    np.testing.assert_array_equal(read.row_steps, np.arange(5))
    run.close()


def test_a_tail_compacts_itself_and_columns_may_change(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", tail_limit=2_000) as run:
        for step in range(200):
            run.log(step, {"loss": float(step)} if step < 100 else {"loss": float(step), "lr": 1e-3})
        assert len(parts(tmp_path / "run" / "metrics")) > 2
    lr, loss = open_run(tmp_path / "run").series("lr"), open_run(tmp_path / "run").series("loss")
    assert lr is not None and loss is not None
    assert len(loss) == 200 and lr.step[0] == 100 and len(lr) == 100


def test_ranks_share_a_directory(tmp_path: Path) -> None:
    writers = [RunWriter(tmp_path / "run", rank=rank) for rank in range(2)]
    for step in range(4):
        for rank, run in enumerate(writers):
            run.log(step, {"loss": float(step + rank), "param_hash": f"h{rank}"})
    for run in writers:
        run.close()
    read = open_run(tmp_path / "run")
    loss, one, hashes = read.series("loss"), read.series("loss/rank1"), read.labels("param_hash/rank1")
    assert read.ranks == (0, 1) and "loss/rank1" in read.columns
    assert loss is not None and one is not None and hashes is not None
    np.testing.assert_array_equal(loss.value, np.arange(4) + 0.5)
    np.testing.assert_array_equal(one.value, np.arange(4) + 1.0)
    assert hashes.at(0) == "h1"


def test_two_writers_of_a_part_take_different_numbers(tmp_path: Path) -> None:
    chunk = read_jsonl(_lines(tmp_path / "x.jsonl", [{"step": 0, "loss": 1.0}]), "x", strict_text=True)[0][0]
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "part-000001.parquet.tmp").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert write_part(tmp_path, arrow_table(chunk)).name == "part-000002.parquet"


def test_a_part_that_another_rank_took_for_abandoned_leaves_the_name_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the moments in which a temporary file is made and locked, another rank removes it and makes its own."""
    fcntl = pytest.importorskip("fcntl")
    chunk = read_jsonl(_lines(tmp_path / "x.jsonl", [{"step": 0, "loss": 1.0}]), "x", strict_text=True)[0][0]
    others, theirs, lock = tmp_path / "part-000001.parquet.tmp", tmp_path / "theirs", atomic.try_lock
    theirs.write_bytes(b"theirs")

    def lock_too_late(handle: int) -> bool | None:
        monkeypatch.setattr("postmortem.run.parts.try_lock", lock)
        theirs.replace(others)
        return lock(handle)

    monkeypatch.setattr("postmortem.run.parts.try_lock", lock_too_late)
    with theirs.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert write_part(tmp_path, arrow_table(chunk)).name == "part-000002.parquet"
        assert others.read_bytes() == b"theirs"


def test_a_file_system_without_locks_is_recorded_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", no_locks)
    lock = WriterLock(tmp_path, 0)
    lock.announce(3)
    assert attempt_of_writer(tmp_path, 0) == 3
    lock.release()
    assert not list(tmp_path.iterdir())


def test_the_manifest_keeps_what_is_not_given_anew(tmp_path: Path) -> None:
    RunWriter(tmp_path / "run", {"seed": 1, "dtype": "fp32"}).close()
    RunWriter(tmp_path / "run", {"dtype": "bf16"}).close()
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest == {"format_version": 1, "id": "run", "seed": 1, "dtype": "bf16"}
    (tmp_path / "run" / "run.json").write_text("[]")
    with pytest.raises(UnreadableInput):
        RunWriter(tmp_path / "run", {"seed": 2})


def test_values_that_json_lacks() -> None:
    given = {"a": np.int64(3), "b": np.float32("nan"), "c": np.array([1.0, np.inf]), "d": (1, None), "e": Path("x")}
    assert json_value(given) == {"a": 3, "b": "NaN", "c": [1.0, "Infinity"], "d": [1, None], "e": "x"}


def test_a_column_with_a_word_stays_as_it_was_logged(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run") as run:
        for step in range(50):
            run.log(step, {"loss": 1.0, "phase": "warm" if step == 7 else step, "rest": "NaN" if step == 3 else "1.5"})
            run.batch(step, {"source": "0012" if step % 2 else "b", "note": None if step else "-"})
    (part,) = parts(tmp_path / "run" / "metrics")
    table = pq.read_table(part)
    assert table["phase"].to_pylist() == [str(step) if step != 7 else "warm" for step in range(50)]
    assert str(table["rest"].type) == "double" and str(table["loss"].type) == "double"
    assert pq.read_table(parts(tmp_path / "run" / "batches")[0])["source"].to_pylist() == ["b", "0012"] * 25


def test_lists_text_and_nothing_survive_compaction(tmp_path: Path) -> None:
    lists = [[[1, 2], [3]], None, [[]], [], [[4]]]
    mixed = [[1.5, None], [2.5], None, [], [math.nan]]
    words = ["é", None, "", "日本", "x" * 1000]
    with RunWriter(tmp_path / "run") as run:
        for step, (ids, losses, text) in enumerate(zip(lists, mixed, words, strict=True)):
            run.batch(step, {"token_ids": ids, "worst_token_losses": losses, "source": text, "sample_ids": ["a", text]})
            run.log(step, {"loss": 1.0})
    table = pq.read_table(parts(tmp_path / "run" / "batches")[0])
    assert table["token_ids"].to_pylist() == lists
    assert repr(table["worst_token_losses"].to_pylist()) == repr(mixed)
    assert table["source"].to_pylist() == [None if text == "" else text for text in words]
    assert table["sample_ids"].to_pylist() == [["a", text] for text in words]


def test_a_journal_that_another_rank_tore_is_gone_on_with(tmp_path: Path) -> None:
    writers = [RunWriter(tmp_path / "run", rank=rank) for rank in range(2)]
    for run in writers:
        run.event("note", 0)
    with (tmp_path / "run" / "journal.jsonl").open("ab") as file:
        file.write(b'{"event":"torn')
    for run in writers:
        run.event("note", 1)
        run.close()
    lines = (tmp_path / "run" / "journal.jsonl").read_bytes().splitlines()
    assert len(lines) == 5 and all(json.loads(line)["event"] == "note" for line in (*lines[:2], *lines[3:]))


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_kill_9_loses_no_row(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    for attempt in range(2):
        path = tmp_path / f"run-{attempt}"
        with subprocess.Popen(
            [sys.executable, "-c", _FOREVER, str(path)], stdout=subprocess.PIPE, env=environment
        ) as child:
            assert child.stdout is not None
            first = child.stdout.readline()
            time.sleep(0.3 + 0.2 * attempt)
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read().splitlines()
        acknowledged = int(rest[-1] if rest and rest[-1].isdigit() else first)
        loss = open_run(path).series("loss")
        assert loss is not None
        np.testing.assert_array_equal(loss.step, np.arange(len(loss)))
        assert len(loss) > acknowledged - 1 and len(loss) <= acknowledged + 12


def _lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_a_killed_process_left_of_a_part_is_removed(tmp_path: Path) -> None:
    chunk = read_jsonl(_lines(tmp_path / "x.jsonl", [{"step": 0, "loss": 1.0}]), "x", strict_text=True)[0][0]
    for number in (1, 7):
        (tmp_path / f"part-{number:06d}.parquet.tmp").write_bytes(b"PAR1")
    assert write_part(tmp_path, arrow_table(chunk)).name == "part-000001.parquet"
    assert not list(tmp_path.glob("*.tmp"))
