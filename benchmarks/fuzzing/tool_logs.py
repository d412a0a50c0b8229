"""Logs as other tools lay them out, to begin from: tables, JSON, folders and databases."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def tool_logs(rows: Sequence[Row]) -> dict[str, dict[str, bytes]]:
    """Tree by name, of rows with step, loss, grad_norm and lr."""
    state = {"global_step": len(rows), "max_steps": len(rows), "log_history": [{**row, "epoch": 0.1} for row in rows]}
    epochs = rows[:30]
    mlflow = {
        "meta.yaml": b"run_id: ab\nrun_name: a\nstart_time: 1700000000000\nlifecycle_stage: active\n",
        "params/lr": b"0.1",
        **{f"metrics/train/{key}": _points(rows, key) for key in ("loss", "grad_norm", "lr")},
    }
    return {
        "tool_hf_state": {"log.txt": json.dumps(state).encode()},
        "tool_hf_folder": {
            "trainer_state.json": json.dumps(state).encode(),
            **{f"checkpoint-{n}/trainer_state.json": json.dumps(state | {"global_step": n}).encode() for n in (50, 95)},
        },
        "tool_keras": {"history.json": json.dumps({k: [r[k] for r in epochs] for k in ("loss", "lr")}).encode()},
        "tool_fastai": {
            "history.csv": _table([{"epoch": r["step"], "train_loss": r["loss"], "time": "01:02"} for r in epochs])
        },
        "tool_ultralytics": {
            "results.csv": _table([
                {"epoch": r["step"], "train/box_loss": r["loss"], "train/cls_loss": 0.5, "lr/pg0": 0.1} for r in epochs
            ])
        },
        "tool_detection": {
            "metrics.json": _lines([
                {"iteration": r["step"], "total_loss": r["loss"], "loss_cls": 0.1, "data_time": 0.1, "lr": r["lr"]}
                for r in rows
            ])
        },
        "tool_trainer": {
            "trainer_log.jsonl": _lines([
                {"current_steps": r["step"], "total_steps": 90, "loss": r["loss"], "lr": r["lr"]} for r in rows
            ])
        },
        "tool_lightning": {
            "lightning_logs/version_0/metrics.csv": _table([{"step": r["step"], "loss": r["loss"]} for r in rows]),
            "lightning_logs/version_0/hparams.yaml": b"lr: 0.1\nlayers: [1, 2]\n",
        },
        "tool_mlflow_store": {
            "mlruns/1/meta.yaml": b"experiment_id: '1'\nname: demo\nlifecycle_stage: active\n",
            **{f"mlruns/1/{0:032x}/{name}": content for name, content in mlflow.items()},
        },
        "tool_mlflow_database": {"mlflow.db": _database(lambda d: _fill_mlflow(d, rows))},
        "tool_trackio": {"demo.db": _database(lambda d: _fill_trackio(d, rows))},
    }  # fmt: skip


def _points(rows: Sequence[Row], key: str) -> bytes:
    return "".join(f"{1_700_000_000_000 + r['step']} {r[key]} {r['step']}\n" for r in rows).encode()


def _lines(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _table(rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _database(fill: Callable[[sqlite3.Connection], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        with closing(sqlite3.connect(path)) as database, database:
            fill(database)
        return path.read_bytes()


def _fill_mlflow(database: sqlite3.Connection, rows: Sequence[Row]) -> None:
    database.executescript(
        "CREATE TABLE metrics (key, value, timestamp, run_uuid, step, is_nan);"
        "CREATE TABLE runs (run_uuid, name, lifecycle_stage, start_time);"
        "CREATE TABLE params (key, value, run_uuid);"
        "INSERT INTO runs VALUES ('ab', 'a', 'active', 1); INSERT INTO params VALUES ('lr', '0.1', 'ab');"
    )
    points = [(key, r[key], r["step"], "ab", r["step"], 0) for r in rows for key in ("loss", "lr")]
    database.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)", points)


def _fill_trackio(database: sqlite3.Connection, rows: Sequence[Row]) -> None:
    database.executescript(
        "CREATE TABLE metrics (id INTEGER PRIMARY KEY, run_id TEXT, timestamp, run_name, step, metrics);"
        "CREATE TABLE configs (id INTEGER PRIMARY KEY, run_id TEXT, run_name, config);"
    )
    written = [("ab", "2026-01-01T00:00:00", "a", r["step"], json.dumps({"loss": r["loss"]}).encode()) for r in rows]
    database.executemany("INSERT INTO metrics VALUES (NULL, ?, ?, ?, ?, ?)", written)
