"""Trackio's database of a project; one that it writes itself where it is installed."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from postmortem.errors import UnreadableInput
from postmortem.sources import open_run, trackio_database
from postmortem.sources._several_runs import SeveralRuns
from tests.sources.helpers import losses

LOSS = {t: math.nan if t == 5 else 2.0 - t / 10 for t in range(8)}
TIME = "2026-11-30T16:58:19.954063+00:00"


def _insert(table: str, row: Sequence[object]) -> str:
    return f"INSERT INTO {table} VALUES (NULL, {', '.join('?' * len(row))})"  # noqa: S608 - nothing comes from outside


def _database(path: Path, runs: Sequence[tuple[str, str]], *, old: bool = False) -> Path:
    """Runs by (id, name); `old` is the layout of the first versions, without ids."""
    with closing(sqlite3.connect(path)) as database, database:
        key = "" if old else "run_id TEXT, "
        database.execute(f"CREATE TABLE metrics (id INTEGER PRIMARY KEY, {key}timestamp, run_name, step, metrics)")
        database.execute(f"CREATE TABLE configs (id INTEGER PRIMARY KEY, {key}run_name, config)")
        for run_id, name in runs:
            first = () if old else (run_id,)
            for t, loss in LOSS.items():
                metrics = json.dumps({"train": {"loss": "NaN" if math.isnan(loss) else loss}, "lr": 0.1, "step": 99})
                row = (*first, TIME, name, t, metrics.encode())
                database.execute(_insert("metrics", row), row)
            config = json.dumps({"lr": 0.1, "_Username": "x"}).encode()
            database.execute(_insert("configs", (*first, name, config)), (*first, name, config))
    return path


@pytest.mark.parametrize("old", [False, True])
def test_a_project_with_one_run_is_that_run(tmp_path: Path, old: bool) -> None:
    run = open_run(_database(tmp_path / "demo.db", [("ab", "first")], old=old))
    np.testing.assert_equal(losses(run), LOSS)
    assert (run.source, run.id, run.columns) == ("Trackio", "first", ("loss", "lr", "time"))
    assert run.manifest.config == {"lr": 0.1}


def test_several_runs_are_listed_and_those_of_one_name_kept_apart(tmp_path: Path) -> None:
    path = _database(tmp_path / "demo.db", [("ab", "first"), ("cd", "twice"), ("ef", "twice")])
    with pytest.raises(SeveralRuns, match="3 runs: ef, cd, first") as caught:
        open_run(path)
    assert len(losses(caught.value.runs["cd"]())) == len(LOSS)


def test_rows_that_are_no_object(tmp_path: Path) -> None:
    path = _database(tmp_path / "demo.db", [("ab", "first")])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE metrics SET metrics = '[1' WHERE step = 3")
        database.execute("UPDATE metrics SET timestamp = 'x'")
    run = open_run(path)
    assert len(losses(run)) == len(LOSS) - 1 and "demo.db: 1 row without a JSON object of metrics" in run.notes
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM metrics")
        database.execute("DROP TABLE configs")
    with pytest.raises(UnreadableInput, match="no run has metrics"):
        open_run(path)


def test_more_bytes_than_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackio_database, "_MOST_BYTES", 100)
    with pytest.raises(UnreadableInput, match="which is the limit"):
        open_run(_database(tmp_path / "demo.db", [("ab", "first")]))


WRITES = """
import math, trackio
from trackio.sqlite_storage import SQLiteStorage
rows = [{"train/loss": math.nan if t == 5 else 2.0 - t / 10, "lr": 0.1} for t in range(8)]
for name in ("first", "second"):
    SQLiteStorage.bulk_log(project="demo", run=name, metrics_list=rows, steps=list(range(8)), config={"lr": 0.1})
"""


@pytest.mark.heavy
def test_what_trackio_writes(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    settings = dict(os.environ, TRACKIO_DIR=str(tmp_path / "trackio"), HF_HUB_OFFLINE="1")
    subprocess.run([sys.executable, "-c", WRITES], check=True, cwd=tmp_path, env=settings, timeout=300)
    with pytest.raises(SeveralRuns, match="2 runs: second, first") as caught:
        open_run(tmp_path / "trackio" / "demo.db")
    run = caught.value.runs["first"]()
    np.testing.assert_equal(losses(run), LOSS)
    assert run.columns == ("loss", "lr", "time") and run.manifest.config == {"lr": 0.1}


@pytest.mark.parametrize("source", ["Trackio", "MLflow database"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, source: str) -> None:
    os.mkfifo(tmp_path / "demo.db")
    with pytest.raises(UnreadableInput, match=r"demo\.db"):
        open_run(tmp_path / "demo.db", source=source)
