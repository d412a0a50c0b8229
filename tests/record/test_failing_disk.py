"""Every call by which a recorder changes the disk fails in turn: no row is lost unless a warning says so, and nothing
that stood there before is harmed."""

from __future__ import annotations

import errno
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from postmortem.record import Recorder, RecordingWarning
from postmortem.run.manifest import read_mapping
from postmortem.sources import open_run
from tests.faults import SHORT, FailingDisk, failing_disk, temporary_names

pytestmark = pytest.mark.heavy
_EARLIER, _STEPS = 10, 30


def record(run: Path, first: int, last: int) -> list[str]:
    """Record steps [first, last) as one attempt; the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Recorder(run, flush_interval_s=3600, provenance=False, config={"lr": 0.1}) as rec:
            for step in range(first, last):
                rec.batch(step, [step], index=step)
                rec.log(step, loss=1.0 + step)
                if step % 10 == 9:
                    rec.event("note", step)
                    rec.flush()
    assert all(issubclass(warning.category, RecordingWarning) for warning in caught), [str(w.message) for w in caught]
    return [str(warning.message) for warning in caught]


def check(run: Path, last: int, said: list[str]) -> None:
    """The rows of steps [0, last) are there, or a warning says that some are lost; all that is there is whole."""
    read = open_run(run)
    loss, hashes = read.series("loss"), read.labels("batch_hash")
    assert loss is not None and hashes is not None
    assert [note for note in read.notes if not note.startswith("metrics/: no row between")] == []
    assert set(range(_EARLIER)) <= set(loss.step.tolist())
    if not any("are lost" in text for text in said):
        assert read.notes == ()
        np.testing.assert_array_equal(loss.step, np.arange(last))
        np.testing.assert_array_equal(hashes.step, np.arange(last))
        assert [event.step for event in read.journal if event.event == "note"] == list(range(9, last, 10))
    np.testing.assert_array_equal(loss.value, 1.0 + loss.step)
    assert read_mapping(run / "run.json")["config"] == {"lr": 0.1}
    assert temporary_names(run) == []


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one attempt."""
    run = tmp_path_factory.mktemp("earlier") / "run"
    assert record(run, 0, _EARLIER) == []
    return run


@pytest.fixture(scope="module")
def counted(earlier: Path, tmp_path_factory: pytest.TempPathFactory) -> FailingDisk:
    """The calls of the second attempt."""
    folder = tmp_path_factory.mktemp("counted")
    shutil.copytree(earlier, folder / "run")
    with failing_disk(folder) as disk:
        assert record(folder / "run", _EARLIER, _STEPS) == []
    assert any("replace run.json" in call for call in disk.calls) and any(".parquet" in call for call in disk.calls)
    return disk


def fail(earlier: Path, folder: Path, call: int, error: int, *, lasting: bool = False) -> bool:
    """A second attempt whose call number `call` fails, and a third one on a sound disk.

    Whether that call came: where the disk is slow, the thread joins two fsyncs, and there are fewer calls."""
    run = folder / f"{call}"
    shutil.copytree(earlier, run)
    with failing_disk(folder) as disk:
        disk.fail_at, disk.error, disk.lasting = call, error, lasting
        said = record(run, _EARLIER, _STEPS)
    assert lasting or not any("are lost" in text for text in said), said
    check(run, _STEPS, said)
    later = record(run, _STEPS, _STEPS + 10)
    assert later == []
    check(run, _STEPS + 10, said)
    assert not list(run.glob("*/tail-*"))
    return len(disk.calls) > call


def test_each_call_fails_once(tmp_path: Path, earlier: Path, counted: FailingDisk) -> None:
    came = [fail(earlier, tmp_path, call, errno.ENOSPC) for call in counted.different_calls()]
    assert np.mean(came) > 0.9


def test_from_each_call_on_the_disk_is_full(tmp_path: Path, earlier: Path, counted: FailingDisk) -> None:
    came = [fail(earlier, tmp_path, call, errno.ENOSPC, lasting=True) for call in counted.different_calls()]
    assert np.mean(came) > 0.9


@pytest.mark.parametrize("error", [SHORT, errno.EIO, errno.EROFS])
def test_other_errors(tmp_path: Path, earlier: Path, counted: FailingDisk, error: int) -> None:
    calls = counted.different_calls()
    for call in [n for n in calls if counted.calls[n].startswith("write")] if error == SHORT else calls[error % 7 :: 7]:
        fail(earlier, tmp_path, call, error)
