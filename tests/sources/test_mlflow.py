"""MLflow: its folders, and its database; a run that it writes itself where it is installed."""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from postmortem.errors import UnreadableInput
from postmortem.sources import _points, _sqlite, mlflow_store, open_run
from postmortem.sources._several_runs import SeveralRuns
from tests.sources.helpers import ESCAPE, losses, write

STEPS = range(8)
LOSS = {t: math.nan if t == 5 else math.inf if t == 6 else 2.0 - t / 10 for t in STEPS}
START = 1_796_057_792_000  # milliseconds

Metrics = Mapping[str, str]


def _lines(steps: range = STEPS, first: int = START, values: Mapping[int, float] = LOSS) -> str:
    return "".join(f"{first + 10 * i} {values[t]} {t}\n" for i, t in enumerate(steps))


def _run(folder: Path, name: str, metrics: Metrics, params: Metrics | None = None, start: int = START) -> Path:
    meta = f"artifact_uri: x\nexperiment_id: '1'\nlifecycle_stage: active\nrun_name: {name}\nstart_time: {start}\n"
    write(folder, "meta.yaml", meta)
    (folder / "metrics").mkdir(exist_ok=True)
    for metric, text in metrics.items():
        write(folder / "metrics", metric, text)
    for param, text in (params or {}).items():
        write(folder / "params", param, text)
    return folder


def _store(tmp_path: Path, *names: str) -> Path:
    root = tmp_path / "mlruns"
    write(root, "1/meta.yaml", "artifact_location: x\nexperiment_id: '1'\nname: demo\n")
    for i, name in enumerate(names):
        _run(root / "1" / f"{i:032x}", name, {"train/loss": _lines(), "lr": _lines(values=dict.fromkeys(STEPS, 0.1))},
             {"lr": "0.1", "fused": "True", "note": "a b"}, START + i)  # fmt: skip
    return root


def _database(path: Path, runs: Mapping[str, str], stage: str = "active") -> Path:
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(
            "CREATE TABLE metrics (key, value, timestamp, run_uuid, step, is_nan);"
            "CREATE TABLE runs (run_uuid, name, lifecycle_stage, start_time);"
            "CREATE TABLE params (key, value, run_uuid);"
        )
        for i, (uuid, name) in enumerate(runs.items()):
            database.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", (uuid, name, stage, i))
            database.execute("INSERT INTO params VALUES ('lr', '0.1', ?)", (uuid,))
            for t, loss in LOSS.items():
                stored = 0.0 if math.isnan(loss) else min(loss, sys.float_info.max)
                row = ("train/loss", stored, START + 10 * t, uuid, t, math.isnan(loss))
                database.execute("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)", row)
            database.execute("INSERT INTO metrics VALUES ('system/gpu', 9, 0, ?, 99, 0)", (uuid,))
    return path


@pytest.mark.parametrize("given", [".", "mlruns", "mlruns/1", f"mlruns/1/{0:032x}"])
def test_a_store_with_one_run_is_that_run(tmp_path: Path, given: str) -> None:
    _store(tmp_path, "first")
    run = open_run(tmp_path / given)
    np.testing.assert_equal(losses(run), LOSS)
    assert (run.source, run.id, run.columns) == ("MLflow store", "first", ("loss", "lr", "time"))
    assert run.manifest.config == {"lr": 0.1, "fused": True, "note": "a b"}
    assert run.origin("loss").endswith("metrics/, column train/loss")
    assert "which count updates and which epochs" in "".join(run.notes)


def test_a_store_with_several_runs_lists_them_newest_first(tmp_path: Path) -> None:
    root = _store(tmp_path, "first", "second", "second")
    for path in (root, root / "1"):
        with pytest.raises(SeveralRuns, match=rf"of 3 runs: {2:032x}, {1:032x}, first.*--run {2:032x}") as caught:
            open_run(path)
        run = caught.value.runs["first"]()
        assert run.id == "first" and len(losses(run)) == len(STEPS)


def test_runs_that_were_deleted_or_measured_nothing_are_none(tmp_path: Path) -> None:
    root = _store(tmp_path, "first", "second")
    meta = root / "1" / f"{0:032x}" / "meta.yaml"
    meta.write_text(meta.read_text().replace("active", "deleted"))
    _run(root / "1" / "empty", "empty", {})
    assert open_run(root / "1").id == open_run(root).id == "second"
    assert open_run(meta.parent).id == "first"
    empty = tmp_path / "other" / "mlruns"
    write(empty, "0/meta.yaml", "experiment_id: '0'\n")
    with pytest.raises(UnreadableInput, match="no run has metrics"):
        open_run(empty)


def test_a_run_that_was_resumed_keeps_both_attempts(tmp_path: Path) -> None:
    values = {t: 5 - t / 10 for t in range(40)}
    first = _lines(range(30), START, values)
    second = _lines(range(20, 40), START + 60_000, {t: v + 0.01 for t, v in values.items()})
    run = open_run(_run(tmp_path / "r", "r", {"loss": first + second, "lr": first.replace(".", "0.") + second}))
    assert [(s.first_step, s.last_step, s.discarded) for s in run.segments] == [(0, 29, True), (20, 39, False)]
    before = run.series("loss", attempt=0)
    assert losses(run)[25] == 2.51 and before is not None and before.at(25) == 2.5
    assert run.row_steps.tolist() == list(range(40))


def test_rows_are_counted_where_no_step_was_logged(tmp_path: Path) -> None:
    lines = "".join(f"{START + t} {2 - t / 10} 0\n" for t in range(6))
    run = open_run(_run(tmp_path / "r", "r", {"loss": lines, "accuracy": f"{START + 9} 0.5 0\n"}))
    assert losses(run) == {t: 2 - t / 10 for t in range(6)} and "no step was logged" in "".join(run.notes)


def test_lines_of_other_lengths(tmp_path: Path) -> None:
    lines = f"{START} 2.5 1\n{START} 2.25 2 data digest\nbroken\n{START} 2.0\n{START} 1.5 3\n{START} 1.0 4"
    run = open_run(_run(tmp_path / "r", "r", {"loss": lines}))
    assert losses(run) == {0: 2.0, 1: 2.5, 2: 2.25, 3: 1.5}, "the last line is not complete"
    assert "metrics/loss:3: not read: 1 line without time, value and step" in run.notes


def test_metrics_named_as_the_keys_are_kept_apart(tmp_path: Path) -> None:
    seven = _lines(values=dict.fromkeys(STEPS, 7.0))
    run = open_run(_run(tmp_path / "r", "r", {"loss": _lines(), "step": seven, "time": seven}))
    assert len(losses(run)) == len(STEPS) and {"step (metric)", "time (metric)"} <= set(run.other_columns)


def test_links_and_names_of_strangers(tmp_path: Path) -> None:
    secret = write(tmp_path, "secret", _lines())
    folder = _run(tmp_path / "r", f"r{ESCAPE}", {"loss": _lines(), f"x{ESCAPE}": f"{START} a 1\n{START} 1 1\n"})
    (folder / "metrics" / "linked").symlink_to(secret)
    run = open_run(folder)
    assert "linked" not in run.other_columns and "\x1b" not in run.id + "".join(run.notes)


def test_more_values_than_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_store, "MOST_POINTS", 5)
    with pytest.raises(UnreadableInput, match="which is the limit"):
        open_run(_run(tmp_path / "r", "r", {"loss": _lines()}))


def test_a_folder_of_our_own_is_none_of_mlflow(tmp_path: Path) -> None:
    write(tmp_path, "run/metrics/notes", "0 1\nhello\n")
    with pytest.raises(UnreadableInput):
        open_run(tmp_path / "run")
    write(tmp_path, "recipes/a/meta.yaml", "package:\n  name: x\n")
    with pytest.raises(UnreadableInput, match="no log"):
        open_run(tmp_path / "recipes")


def test_points_of_many_metrics_share_rows() -> None:
    rng = np.random.default_rng(0)
    steps = np.r_[np.arange(50), np.arange(40, 90)].astype(float)
    metrics = {name: _points.Points(steps, np.arange(100.0), rng.normal(size=100)) for name in "abc"}
    table = _points.points_table("x", metrics)
    step = table.numbers("step")
    assert table.rows == 100 and step is not None and step.value.tolist() == steps.tolist()
    for name, points in metrics.items():
        read, bounds = table.numbers(name), table.bounds(name)
        assert read is not None and read.logged is None and read.value.tolist() == points.value.tolist()
        assert bounds is not None and (bounds.nulls, bounds.low) == (0, points.value.min())
    assert _points.points_table("x", {}).rows == 0


def test_a_database_with_one_run_is_that_run(tmp_path: Path) -> None:
    run = open_run(_database(tmp_path / "mlflow.db", {"ab": "first"}))
    np.testing.assert_equal(losses(run), LOSS)
    assert (run.source, run.id, run.columns) == ("MLflow database", "first", ("loss", "time"))
    assert run.manifest.config == {"lr": 0.1} and run.other_columns == ()


def test_a_database_with_several_runs_lists_them(tmp_path: Path) -> None:
    path = _database(tmp_path / "anything", {"ab": "first", "cd": "second", "ef": "second"})
    with pytest.raises(SeveralRuns, match=r"3 runs: ef, cd, first.*--run ef") as caught:
        open_run(path)
    assert caught.value.runs["cd"]().id == "cd"
    with pytest.raises(UnreadableInput, match="no run has metrics"):
        open_run(_database(tmp_path / "deleted.db", {"ab": "first"}, "deleted"))


def test_what_stands_in_the_log_of_a_database_is_read(tmp_path: Path) -> None:
    path = _database(tmp_path / "mlflow.db", {"ab": "first"})
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("UPDATE metrics SET value = 7 WHERE step = 1")
        before = sorted((p.name, p.stat().st_size) for p in tmp_path.iterdir())
        assert losses(open_run(path))[1] == 7.0
        assert sorted((p.name, p.stat().st_size) for p in tmp_path.iterdir()) == before


def _views(database: sqlite3.Connection) -> None:
    database.executescript(
        "DROP TABLE metrics; CREATE VIEW metrics AS WITH RECURSIVE r(key, value, timestamp, run_uuid, step, is_nan) AS "
        "(SELECT 'loss', 0, 0, 'ab', 0, 0 UNION ALL SELECT key, value, timestamp, run_uuid, step + 1, 0 FROM r) "
        "SELECT * FROM r;"
    )


def test_a_database_that_would_never_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _database(tmp_path / "mlflow.db", {"ab": "first"})
    with closing(sqlite3.connect(path)) as database, database:
        database.executemany("INSERT INTO metrics VALUES ('x', 1, 1, 'ab', ?, 0)", ((t,) for t in range(2_000)))
    monkeypatch.setattr(_sqlite, "_MOST_SECONDS", -1)
    monkeypatch.setattr(_sqlite, "_EVERY", 10)
    with pytest.raises(UnreadableInput):
        open_run(path)
    monkeypatch.undo()
    with closing(sqlite3.connect(path)) as database:
        _views(database)
    with pytest.raises(UnreadableInput, match="no known"):
        open_run(path)


def test_columns_that_a_small_file_computes_are_none(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE metrics (n, key AS (hex(zeroblob(50000))), value AS (n), timestamp AS (n), run_uuid AS ('a'),"
            " step AS (n), is_nan AS (0))"
        )
    with pytest.raises(UnreadableInput, match="a SQLite database without MLflow's"):
        open_run(path)


@pytest.mark.parametrize("at", [100, 4096, 9000])
def test_a_damaged_database(tmp_path: Path, at: int) -> None:
    path = _database(tmp_path / "mlflow.db", {"ab": "first"})
    data = bytearray(path.read_bytes())
    data[at : at + 800] = b"\xff" * 800
    path.write_bytes(data)
    try:
        open_run(path)
    except UnreadableInput as error:
        assert "\n" not in str(error)


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    path = _database(tmp_path / "mlflow.db", {"ab": "first"})
    for text in ("x", "x" * 900_000):
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE metrics SET value = ?", (text,))
        with pytest.raises(UnreadableInput, match="no numbers"):
            open_run(path)


WRITES = """
import math, mlflow, sys
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment("demo")
for name in ("first", "second"):
    with mlflow.start_run(run_name=name):
        mlflow.log_params({"lr": 0.1, "note": "a b"})
        for t in range(8):
            loss = math.nan if t == 5 else math.inf if t == 6 else 2.0 - t / 10
            mlflow.log_metrics({"train/loss": loss, "lr": 0.1}, step=t)
        mlflow.log_metric("val_loss", 2.5, step=7)
        mlflow.log_metric("system/gpu_utilization", 5.0, step=3)
"""


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "1")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "1")


@pytest.mark.heavy
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("store", ["mlruns", "sqlite"])
def test_what_mlflow_writes(tmp_path: Path, store: str) -> None:
    pytest.importorskip("mlflow")
    path = tmp_path / "mlruns" if store == "mlruns" else tmp_path / "mlflow.db"
    if store == "sqlite":
        pytest.importorskip("sqlalchemy")
    uri = path.as_uri() if store == "mlruns" else f"sqlite:///{path}"
    subprocess.run([sys.executable, "-c", WRITES, uri], check=True, cwd=tmp_path, env=dict(os.environ), timeout=300)
    with pytest.raises(SeveralRuns, match="2 runs: second, first") as caught:
        open_run(path)
    run = caught.value.runs["first"]()
    np.testing.assert_equal(losses(run), LOSS)
    held = run.series("eval_loss")
    assert held is not None and held.step.tolist() == [7] and run.columns == ("loss", "eval_loss", "lr", "time")
    assert run.manifest.config == {"lr": 0.1, "note": "a b"}
