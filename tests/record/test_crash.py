"""`kill -9` at any instant, and who may write a run while somebody else does."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from postmortem.errors import UsageError
from postmortem.record import Recorder, RecordingError, RecordingWarning
from postmortem.sources import open_run

pytestmark = [pytest.mark.processes, pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")]

_ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
_INTERVAL_S = 0.05
_FOREVER = """
import sys, time
from postmortem.record import Recorder

rec = Recorder(sys.argv[1], flush_interval_s=float(sys.argv[2]), provenance=False, on_error="raise")
step = int(sys.argv[3])
while True:
    rec.batch(step, [[step, 1, 2], [3, 4, 5]], index=step)
    rec.log(step, loss=2.0 + (step % 500 == 0) * 50.0, lr=3e-4)
    sys.stdout.write(f"{step} {time.time()}\\n")
    sys.stdout.flush()
    step += 1
    time.sleep(0.0005)
"""


def _killed_after(path: Path, seconds: float, first: int) -> tuple[int, int]:
    """Record from step `first` on until the kill: (the last step taken down, the last one older than an interval)."""
    command = [sys.executable, "-c", _FOREVER, str(path), str(_INTERVAL_S), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=_ENVIRONMENT) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline()]
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        killed = time.time()
        lines += child.stdout.read().splitlines()
    taken = [line.split() for line in lines if len(line.split()) == 2]
    # The margin is for a loaded machine: the thread has to get its turn before it can write.
    older = [int(step) for step, at in taken if killed - float(at) > _INTERVAL_S + 0.25]
    return int(taken[-1][0]), max(older, default=first - 1)


def _kill_and_read(path: Path, kills: int, seed: int) -> None:
    dice = random.Random(seed)
    promised = 0
    for attempt in range(kills):
        taken, older = _killed_after(path, dice.uniform(0.0 if attempt else 0.5, 0.8), promised)
        run = open_run(path)
        loss, hashes = run.series("loss"), run.labels("batch_hash")
        assert run.segments[-1].attempt <= attempt
        if older >= promised:
            assert run.segments[-1].attempt == attempt
            assert loss is not None and hashes is not None
            assert loss.step[-1] >= older and hashes.step[-1] >= older, f"rows lost in attempt {attempt}"
            np.testing.assert_array_equal(loss.step, np.arange(loss.step[-1] + 1))
            assert loss.step[-1] <= taken + 1
            promised = int(loss.step[-1]) + 1
        events = [event.event for event in run.journal]
        assert events[0] == "run_start" and events.count("reopen") == attempt
        assert json.loads((path / "run.json").read_text())["ranks"]["0"]["attempt"] == attempt


def test_kill_9_loses_no_row_older_than_the_flush_interval(tmp_path: Path) -> None:
    _kill_and_read(tmp_path / "run", 4, seed=1)


@pytest.mark.slow
def test_kill_9_two_hundred_times(tmp_path: Path) -> None:
    for seed in range(20):
        _kill_and_read(tmp_path / f"run-{seed}", 10, seed)


def test_two_writers_on_one_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FOREVER, str(tmp_path / "run"), "0.05", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=_ENVIRONMENT) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(
            UsageError, match=rf"rank 0 is already being recorded here by process {child.pid} on .+ since"
        ):
            Recorder(tmp_path / "run", provenance=False, on_error="raise")
        with pytest.warns(RecordingWarning, match="already being recorded") as said:
            second = Recorder(tmp_path / "run", flush_interval_s=0.05, provenance=False)
        assert len(said) == 1 and second.failure is not None
        second.log(1_000_000, loss=7.0)
        second.event("note", 1_000_000)  # nor does an event raise
        child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while second.failure is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    second.close()  # the other one ended: what was held has been written, as the next attempt
    run = open_run(tmp_path / "run")
    loss = run.series("loss")
    assert loss is not None and loss.at(1_000_000) == 7.0 and run.segments[-1].attempt == 1
    degraded = [event for event in run.journal if event.event == "recording_degraded"]
    assert len(degraded) == 1 and degraded[0].keys["lost_rows"] == 0
    assert "already being recorded" in degraded[0].keys["reason"]


def test_two_recorders_in_one_process(tmp_path: Path) -> None:
    first = Recorder(tmp_path / "run", provenance=False)
    with pytest.raises(UsageError, match=f"by process {os.getpid()} on"):
        Recorder(tmp_path / "run", provenance=False, on_error="raise")
    other_rank = Recorder(tmp_path / "run", rank=1, world_size=2, provenance=False, on_error="raise")
    other_rank.close()
    first.close()
    Recorder(tmp_path / "run", provenance=False, on_error="raise").close()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_where_the_directory_should_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="there is a file where the run's directory should be"):
        Recorder(tmp_path / place, on_error="raise")
    with pytest.warns(RecordingWarning, match="there is a file"):
        rec = Recorder(tmp_path / place, flush_interval_s=0.05)
    rec.log(0, loss=1.0)
    rec.incident(0, "hang")
    with pytest.warns(RecordingWarning, match="2 rows could not be written and are lost"):
        rec.close()
    assert (tmp_path / "file").read_bytes() == b""


def test_a_directory_that_becomes_writable_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(RecordingError, match="Permission denied"):
        Recorder(tmp_path / "run", on_error="raise")
    with pytest.warns(RecordingWarning, match="Permission denied"):
        rec = Recorder(tmp_path / "run", flush_interval_s=0.02, provenance=False)
    for step in range(10):
        rec.log(step, loss=1.0)
    monkeypatch.setattr(Path, "mkdir", real)
    deadline = time.monotonic() + 10
    while rec.failure is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    rec.close()
    loss = open_run(tmp_path / "run").series("loss")
    assert loss is not None and len(loss) == 10
