"""A disk that fails: training goes on, nothing before it is damaged, and the journal tells of it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from postmortem.record import Recorder, RecordingError, RecordingWarning
from postmortem.record import background as background_module
from postmortem.sources import open_run

_ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


class FullDisk:
    """os.write as a full disk does it: writes `room` bytes of what it is given, then nothing, until it is mended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room, self.full, self.refused = room, False, 0
        self._write: Callable[[int, bytes], int] = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, handle: int, data: bytes) -> int:
        if not self.full:
            return self._write(handle, data)
        self.refused += 1
        if self.room:
            written = self._write(handle, bytes(data)[: self.room])
            self.room = 0
            return written
        raise OSError(errno.ENOSPC, "No space left on device")


def _until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not met() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert met()


@pytest.mark.parametrize("room", [0, 70])
def test_a_full_disk_holds_rows_until_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    disk = FullDisk(monkeypatch, room)
    rec = Recorder(tmp_path / "run", flush_interval_s=0.02, provenance=False)
    for step in range(10):
        rec.log(step, loss=1.0)
    rec.flush()
    tail = tmp_path / "run" / "metrics" / "tail-0-0.jsonl"
    before = tail.read_bytes()
    disk.full = True
    with pytest.warns(RecordingWarning) as said:
        for step in range(10, 30):
            rec.batch(step, [step])
            rec.log(step, loss=float("nan") if step == 20 else 1.0)
            time.sleep(0.005)
        _until(lambda: rec.failure is not None)
        rec.flush()
    assert len(said) == 1
    assert any(words in str(said[0].message) for words in ("No space left", "bytes could be written"))
    assert tail.read_bytes() == before, "a cut-short write was not undone"
    refused = disk.refused
    _until(lambda: disk.refused > refused)  # it is tried again, and not said again
    disk.full = False
    _until(lambda: rec.failure is None)
    rec.log(30, loss=1.0)
    rec.close()
    run = open_run(tmp_path / "run")
    loss, hashes = run.series("loss"), run.labels("batch_hash")
    assert loss is not None and hashes is not None
    np.testing.assert_array_equal(loss.step, np.arange(31))
    np.testing.assert_array_equal(hashes.step, np.arange(10, 30))
    degraded = [event for event in run.journal if event.event == "recording_degraded"]
    assert len(degraded) == 1 and degraded[0].keys["lost_rows"] == 0 and degraded[0].keys["seconds"] > 0


def test_rows_held_too_long_are_lost_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_module, "_MOST_BYTES", 20_000)
    disk = FullDisk(monkeypatch, 0)
    rec = Recorder(tmp_path / "run", flush_interval_s=0.02, provenance=False)
    disk.full = True
    with pytest.warns(RecordingWarning):
        for step in range(1_000):
            rec.log(step, loss=1.0)
        rec.flush()
        rec.log(1_000, loss=1.0)
    disk.full = False
    rec.close()
    run = open_run(tmp_path / "run")
    loss = run.series("loss")
    (degraded,) = [event for event in run.journal if event.event == "recording_degraded"]
    assert loss is not None and loss.step[-1] == 1_000, "the newest rows are the ones to keep"
    assert degraded.keys["lost_rows"] == 1_001 - len(loss) > 500


def test_raise_is_heard_at_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch, 0)
    rec = Recorder(tmp_path / "run", flush_interval_s=0.02, provenance=False, on_error="raise")
    disk.full = True

    def log_until_it_raises() -> None:
        for step in range(500):
            rec.log(step, loss=1.0)
            time.sleep(0.005)

    with pytest.raises(RecordingError, match="No space left on device"):
        log_until_it_raises()
    disk.full = False
    rec.close()


def test_a_disk_that_stays_full_is_said_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch, 0)
    rec = Recorder(tmp_path / "run", flush_interval_s=60, provenance=False)
    disk.full = True
    rec.log(0, loss=1.0)
    with pytest.warns(RecordingWarning) as said:
        rec.close()
    first, last = (str(warning.message) for warning in said)
    assert "No space left" in first and "1 rows could not be written and are lost" in last
    assert not (tmp_path / "run" / ".writer-0.lock").exists()


def test_a_file_size_limit_of_the_system(tmp_path: Path) -> None:
    """A real refusal: RLIMIT_FSIZE cuts a write short, then refuses (SIGXFSZ ignored), then is lifted."""
    code = """
import resource, signal, sys, time, warnings
from postmortem.record import Recorder

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
warnings.simplefilter("ignore")
rec = Recorder(sys.argv[1], flush_interval_s=0.02, provenance=False)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
for step in range(400):
    rec.log(step, loss=1.0, lr=0.1)
    if step % 20 == 0:
        rec.flush()
assert rec.failure is not None
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
rec.flush()
assert rec.failure is None, rec.failure
rec.close()
"""
    pytest.importorskip("resource")
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = open_run(tmp_path / "run")
    loss = run.series("loss")
    assert loss is not None and run.notes == ()
    np.testing.assert_array_equal(loss.step, np.arange(400))
    assert [event.event for event in run.journal].count("recording_degraded") == 1


def test_compaction_that_fails_leaves_the_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    rec = Recorder(tmp_path / "run", provenance=False)
    rec.log(0, loss=1.0)
    monkeypatch.setattr("postmortem.record.writer.write_part", refuse)
    with pytest.warns(RecordingWarning, match="compaction failed and the rows stay as they are"):
        rec.close()
    loss = open_run(tmp_path / "run").series("loss")
    assert loss is not None and len(loss) == 1
    monkeypatch.undo()
    Recorder(tmp_path / "run", provenance=False).close()  # the next attempt makes up for it
    assert not list((tmp_path / "run" / "metrics").glob("tail-*"))


def test_a_fault_of_the_recorders_own_does_not_reach_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(row: Mapping[str, object]) -> bytes:
        if "loss" in row:
            raise ZeroDivisionError("planted")
        return real(row)

    real = background_module.encode
    rec = Recorder(tmp_path / "run", flush_interval_s=0.02, provenance=False)
    monkeypatch.setattr(background_module, "encode", fault)
    rec.log(0, loss=1.0)
    with pytest.warns(RecordingWarning, match="a row of step 0 is lost: ZeroDivisionError: planted"):
        rec.flush()
    monkeypatch.setattr(background_module, "encode", real)
    rec.log(1, loss=1.0)
    rec.close()
    loss = open_run(tmp_path / "run").series("loss")
    assert loss is not None and len(loss) == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert [line["lost_rows"] for line in lines if line["event"] == "recording_degraded"] == [1]


@pytest.mark.processes
def test_a_loop_without_batches_needs_no_hash_functions(tmp_path: Path) -> None:
    """An incident asks for the batches around it, and there are none."""
    code = (
        "import sys; sys.modules['xxhash'] = None\n"
        "from postmortem.record import Recorder\n"
        f"with Recorder({str(tmp_path / 'run')!r}, on_error='raise', provenance=False) as rec:\n"
        "    for step in range(9): rec.log(step, loss=float('nan') if step == 5 else 2.0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=_ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"nonfinite"' in (tmp_path / "run" / "journal.jsonl").read_text()
