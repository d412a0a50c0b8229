"""Every call by which a save changes the disk fails in turn: training goes on, the checkpoints before stay sound, and
nothing half-written remains."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path

import pytest

from postmortem.checkpoint import Checkpointer, CheckpointWarning, Policy
from postmortem.checkpoint.inspection import inspect
from tests.checkpoint.helpers import Notes, Training
from tests.faults import FailingDisk, failing_disk, temporary_names

pytestmark = pytest.mark.heavy
POLICY = Policy(rollback_every=2, recovery_every=4, rollback_keep=1, recovery_keep=1)


def saved(run: Path, disk: FailingDisk) -> tuple[Notes, list[str]]:
    """Steps 0 to 2 on a sound disk, steps 2 to 4 on `disk`, which saves two checkpoints and removes the old one, then
    steps 4 to 8 on a sound disk again: (journal, warnings)."""
    training, notes = Training(), Notes(run)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Checkpointer(notes, training.state(), POLICY, asynchronous=False) as saves:
            training.run(0, 2, saves)
            disk.watching = True
            training.run(2, 4, saves)
            disk.watching = False
            check(run)
            training.run(4, 8, saves)
    assert all(issubclass(warning.category, CheckpointWarning) for warning in caught), [str(w.message) for w in caught]
    return notes, [str(warning.message) for warning in caught]


def check(run: Path) -> None:
    """All that is listed is sound, `latest` leads to one of them, and nothing else is there."""
    paths = sorted(run.glob("[!.]*/*.dcp"))
    assert paths and all(not inspect(path).problems for path in paths)
    assert (run / "latest").resolve() in [path.resolve() for path in paths]


def fail(run: Path, call: int, error: int, *, lasting: bool = False) -> None:
    """A training whose save of step 4 fails at the call number `call`."""
    with failing_disk(run, watching=False) as disk:
        disk.fail_at, disk.error, disk.lasting = call, error, lasting
        notes, said = saved(run, disk)
    assert len(disk.calls) > call and all("step 4" in text for text in said), (disk.calls[call], said)
    assert bool(said) == bool({"checkpoint_failed", "retention_failed"} & set(notes.names()))
    check(run)
    assert (run / "latest").readlink() == Path("recovery/step-00000008.dcp")
    assert [path.name for path in run.glob("*/*.dcp")] == ["step-00000008.dcp"] * 2
    assert temporary_names(run) == [], disk.calls[call]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> FailingDisk:
    """The calls of the save of step 4."""
    folder = tmp_path_factory.mktemp("counted")
    with failing_disk(folder, watching=False) as disk:
        _, said = saved(folder / "run", disk)
    assert said == [] and "replace checkpoint.json" in disk.calls
    return disk


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])
class TestFull:
    """With `every` 2, every other call fails once, and from each of the others on the disk is full."""

    def test_each_call_fails_once(self, tmp_path: Path, counted: FailingDisk, every: int) -> None:
        for call in counted.different_calls()[::every]:
            fail(tmp_path / str(call), call, errno.ENOSPC)

    def test_from_each_call_on(self, tmp_path: Path, counted: FailingDisk, every: int) -> None:
        for call in counted.different_calls()[every - 1 :: every]:
            fail(tmp_path / str(call), call, errno.ENOSPC, lasting=True)


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS])
def test_other_errors(tmp_path: Path, counted: FailingDisk, error: int) -> None:
    for call in counted.different_calls()[error % 7 :: 7]:
        fail(tmp_path / str(call), call, error)
