"""W&B's files as W&B writes them offline, and damaged ones."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wandb")

from postmortem.errors import PostmortemError, UnreadableInput
from postmortem.run import Run
from postmortem.sources import Candidate, open_run
from postmortem.sources.wandb_offline import SOURCE
from tests.sources.helpers import losses, write

Record: Any = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record

WRITE = """
import math, sys
import wandb
settings = wandb.Settings(silent=True, x_disable_stats=True, console="off")
main = wandb.init(mode="offline", dir=sys.argv[1], id="main", name="brave-fox-1", settings=settings,
                  config={"lr": 0.1, "seed": 3, "model": {"layers": 2}})
for step in range(400):
    row = {"train/loss": 4 / (step + 1), "layer": {"norm": step, "bad": math.nan}, "peak": -math.inf, "ok": True}
    if step % 100 == 50:
        row |= {"note": "x" * 70_000, "weights": wandb.Histogram([1.0, 2.0]), "list": [1, 2]}
    main.log(row)
main.log({"train/loss": math.nan}, step=500)
main.finish()
other = wandb.init(mode="offline", dir=sys.argv[1], id="other", settings=settings)
for step in range(30):
    other.log({"train/loss": 1.0 + step, "train/grad_norm": 2, "train/global_step": 10 * step})
    if step % 10 == 0:
        other.log({"eval/loss": 5.0, "train/global_step": 10 * step})
other.finish(exit_code=3)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `wandb/` of two runs."""
    path = tmp_path_factory.mktemp("project")
    environment = {**os.environ, "WANDB_DIR": str(path), "WANDB_CACHE_DIR": str(path / "cache"), "HOME": str(path)}
    subprocess.run([sys.executable, "-c", WRITE, str(path)], check=True, env=environment, timeout=300)
    return path / "wandb"


def _run_folder(folder: Path, ident: str) -> Path:
    (path,) = folder.glob(f"offline-run-*-{ident}")
    return path


def _series(run: Run, name: str) -> dict[int, float]:
    series = run.series(name)
    return {} if series is None else dict(zip(series.step.tolist(), series.value.tolist(), strict=True))


@pytest.mark.processes
def test_what_was_logged_is_read(folder: Path) -> None:
    run = open_run(_run_folder(folder, "main") / "run-main.wandb")
    assert losses(run) == {t: pytest.approx(4 / (t + 1)) for t in range(400)} | {
        500: pytest.approx(np.nan, nan_ok=True)
    }
    assert _series(run, "layer/norm") == {t: float(t) for t in range(400)}
    assert all(map(np.isnan, _series(run, "layer/bad").values())) and set(_series(run, "peak").values()) == {-np.inf}
    assert set(_series(run, "ok").values()) == {1.0} and run.series("time") is not None
    notes = run.labels("note")
    assert notes is not None and notes.at(150) == "x" * 70_000, "a record of several chunks"
    assert (run.id, run.source, run.manifest.seed) == ("brave-fox-1", "W&B offline", 3)
    assert dict(run.manifest.config) == {"lr": 0.1, "seed": 3, "model": {"layers": 2}}
    assert any("(tables, images, lists) ignored" in note for note in run.notes)
    assert not any("the end of the run" in note or "exit code" in note for note in run.notes)


@pytest.mark.processes
def test_the_trainers_own_step_goes_first(folder: Path) -> None:
    run = open_run(_run_folder(folder, "other"))
    assert losses(run) == {10 * t: 1.0 + t for t in range(30)}
    assert _series(run, "eval_loss") == {0: 5.0, 100: 5.0, 200: 5.0} and len(run.segments) == 1
    assert any("ended with exit code 3" in note for note in run.notes)


@pytest.mark.processes
def test_folders(folder: Path, tmp_path: Path) -> None:
    assert losses(open_run(folder / "latest-run")) == losses(open_run(_run_folder(folder, "other")))
    for path in (folder, folder.parent):
        with pytest.raises(UnreadableInput) as caught:
            open_run(path)
        assert "2 runs of W&B: offline-run-" in str(caught.value)
        assert f"postmortem draft {path if path == folder else folder}/offline-run-" in str(caught.value)
    main = _run_folder(folder, "main")
    shutil.copytree(main, tmp_path / "wandb" / main.name)
    assert len(losses(open_run(tmp_path / "wandb"))) == len(losses(open_run(tmp_path))) == 401
    resumed = main.name.replace("offline-run-2", "run-3")  # the same id, later
    shutil.copytree(main, tmp_path / "wandb" / resumed)
    run = open_run(tmp_path / "wandb")
    assert len(losses(run)) == 401 and any("2 files of run main were read as one run" in note for note in run.notes)


@pytest.mark.processes
def test_a_real_file_cut_anywhere_is_read_up_to_there(folder: Path, tmp_path: Path) -> None:
    data = (_run_folder(folder, "other") / "run-other.wandb").read_bytes()
    whole = losses(open_run(write(tmp_path, "whole.wandb", data)))
    rows = 0
    for size in range(0, len(data), 61):
        try:
            read = losses(open_run(write(tmp_path, "cut.wandb", data[:size])))
        except UnreadableInput:
            assert rows == 0
            continue
        assert rows <= len(read) and read.items() <= whole.items()
        rows = len(read)
    assert rows == len(whole)


def _framed(*records: Any) -> bytes:
    """Records as they stand in a file: chunks in blocks of 32 KiB."""
    out = bytearray(b":W&B\xe1\xbe\x00")
    for record in records:
        rest = record if isinstance(record, bytes) else record.SerializeToString()
        first = True
        while first or rest:
            room = 32768 - len(out) % 32768
            if room < 7:
                out += bytes(room)
                room = 32768
            part, rest = rest[: room - 7], rest[room - 7 :]
            kind = bytes([(1 if first else 4) if not rest else (2 if first else 3)])
            out += zlib.crc32(kind + part).to_bytes(4, "little") + len(part).to_bytes(2, "little") + kind + part
            first = False
    return bytes(out)


def _row(step: int, **values: str) -> Any:
    record = Record()
    record.history.step.num = step
    for name, value in values.items():
        record.history.item.add(key=name, value_json=value)
    return record


def test_typed_values_and_values_as_text(tmp_path: Path) -> None:
    records = [_row(t, loss='"NaN"' if t == 3 else "2", other='"Infinity"') for t in range(6)]
    for t, record in enumerate(records):
        record.history.item.add(nested_key=["a", "b"], number=0.25 * t)
        record.history.item.add(key="count", integer=-t)
        record.history.item.add(key="flag", boolean=True)
        record.history.item.add(key="word", text="hello")
        record.history.item.add(key="json", json="1e3")
    run = open_run(write(tmp_path, "x.wandb", _framed(*records)))
    assert set(losses(run)) == set(range(6)) and np.isnan(losses(run)[3]) and losses(run)[2] == 2.0
    assert _series(run, "a/b")[2] == 0.5 and _series(run, "count")[5] == -5.0 and _series(run, "json")[0] == 1000.0
    assert set(_series(run, "flag").values()) == {1.0} and set(_series(run, "other").values()) == {np.inf}
    assert any("the end of the run is not in it" in note for note in run.notes)


def test_a_small_file_cut_at_every_byte_is_read_up_to_there(tmp_path: Path) -> None:
    data = _framed(*(_row(t, loss=f"{t}.5") for t in range(6)))
    sizes: list[int] = []
    for size in range(len(data)):
        try:
            run = open_run(write(tmp_path, "x.wandb", data[:size]))
        except UnreadableInput:
            continue
        assert losses(run) == {t: t + 0.5 for t in range(len(losses(run)))}
        sizes.append(len(losses(run)))
    assert sizes == sorted(sizes) and sizes[-1] == 5


def test_damage_costs_no_more_than_its_block(tmp_path: Path) -> None:
    data = bytearray(_framed(*(_row(t, loss=f"{t}.5", pad=f'"{"x" * 300}"') for t in range(400))))
    data[40_000] ^= 1
    run = open_run(write(tmp_path, "x.wandb", bytes(data)))
    assert 300 < len(losses(run)) < 400 and 399 in losses(run)
    assert any("damaged part was left out, the first at byte" in note for note in run.notes)
    unknown = open_run(write(tmp_path, "y.wandb", _framed(_row(0, loss="1"), b"\x12\xff", _row(1, loss="2"))))
    assert losses(unknown) == {0: 1.0, 1: 2.0} and any("1 damaged part" in note for note in unknown.notes)
    padded = open_run(write(tmp_path, "z.wandb", _framed(_row(0, loss="1"), _row(1, loss="2")) + bytes(90_000)))
    assert losses(padded) == {0: 1.0, 1: 2.0}


def test_other_content_is_refused(tmp_path: Path) -> None:
    for data, words in ((b"", "empty"), (b"hello", "is no W&B file"), (_framed(), "no row of logged values")):
        with pytest.raises(UnreadableInput, match=words):
            open_run(write(tmp_path, "a/x.wandb", data))
    (tmp_path / "b" / "run-20260101_000000-x").mkdir(parents=True)
    with pytest.raises(UnreadableInput, match=r"no \.wandb file"):
        open_run(tmp_path / "b")
    write(tmp_path, "a/y.wandb", _framed(_row(0, loss="1")))
    with pytest.raises(UnreadableInput, match=r"2 W&B files: x\.wandb, y\.wandb.*y\.wandb"):
        open_run(tmp_path / "a")
    write(tmp_path, "a/metrics.csv", "step,loss\n0,1\n1,2\n")
    assert losses(open_run(tmp_path / "a")) == {0: 1.0, 1: 2.0}, "a bare folder is called by its metrics.*"
    assert SOURCE.sniff(Candidate(tmp_path / "absent")) is None


@pytest.mark.heavy
def test_damaged_input_ends_in_a_run_or_a_message(tmp_path: Path) -> None:
    rng = random.Random(20)
    records = [_row(t, loss=f"{t}.5", text='"abc"', inf="Infinity").SerializeToString() for t in range(8)]
    sound = _framed(*records)
    for _ in range(2000):
        data = _framed(*(_damaged(rng, record) for record in records)) if rng.random() < 0.7 else _damaged(rng, sound)
        try:
            open_run(write(tmp_path, "x.wandb", data))
        except PostmortemError:
            continue


def _damaged(rng: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    at = rng.randrange(len(damaged))
    damaged[at : at + rng.choice((0, 1, 1, 9))] = rng.randbytes(rng.choice((0, 1, 1, 4)))
    return bytes(damaged)
