"""Saves that are cut short, disks that fill up, and pickles that bite."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import torch.distributed.checkpoint as dcp

from postmortem.checkpoint import Checkpointer, CheckpointWarning, Policy, _dcp, load_checkpoint, manifest, writing
from postmortem.checkpoint._saving_lock import SavingLock
from postmortem.checkpoint.retention import CheckpointFolders
from postmortem.errors import UnreadableInput, UsageError
from postmortem.jsonio import as_json
from tests.checkpoint.helpers import Notes, Training, same

POLICY = Policy(rollback_every=2, recovery_every=4)
ROOT = Path(__file__).parents[2]


def hidden(run: Path) -> list[Path]:
    return [path for path in run.glob("*/.*") if ".tmp-" in path.name] + list(run.glob(".latest*"))


def failing(after: Callable[..., Any] | None) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        if after is not None:
            after(*args, **kwargs)
        raise OSError(28, "No space left on device")

    return fail


STAGES: dict[str, tuple[Any, str, bool]] = {
    "before the tensors": (_dcp, "write", False),
    "after the tensors": (_dcp, "write", True),
    "at the checksums": (manifest, "digest", False),
    "before the manifest": (manifest, "write", False),
    "after the manifest": (manifest, "write", True),
    "at the links": (writing, "_link", False),
    "before the rename": (writing, "sync_folder", True),
}


@pytest.mark.parametrize("stage", list(STAGES))
@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_failing_save_leaves_nothing_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, asynchronous: bool
) -> None:
    training, notes = Training(), Notes(tmp_path)
    with Checkpointer(notes, training.state(), POLICY, asynchronous=asynchronous) as saves:
        training.run(0, 2, saves)
        saves.wait()
        with monkeypatch.context() as patch:
            home, name, after = STAGES[stage]
            patch.setattr(home, name, failing(getattr(home, name) if after else None))
            with pytest.warns(CheckpointWarning, match="step 4 could not be saved"):
                training.run(2, 4, saves)
                saves.wait()
        assert [e["path"] for e in notes.of("checkpoint_failed")] == [
            *("recovery/step-00000004.dcp", "rollback/step-00000004.dcp"),
        ]
        assert "No space left" in notes.of("checkpoint_failed")[0]["reason"]
        assert (tmp_path / "latest").readlink() == Path("rollback/step-00000002.dcp")
        assert not hidden(tmp_path) and not (tmp_path / "recovery" / "step-00000004.dcp").exists()
        training.run(4, 8, saves)
    assert (tmp_path / "latest").readlink() == Path("recovery/step-00000008.dcp")


def test_a_full_disk_for_real(tmp_path: Path) -> None:
    training, notes = Training(), Notes(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Checkpointer(notes, training.state(), POLICY, asynchronous=False) as saves:
            saves.save(1, "recovery")
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
            with pytest.warns(CheckpointWarning, match="training goes on"):
                saves.save(2, "recovery")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert notes.names() == ["checkpoint", "checkpoint_failed"]
    assert not hidden(tmp_path) and load_checkpoint(tmp_path / "latest")


def test_what_cannot_be_removed_is_said_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes(tmp_path)
    with Checkpointer(notes, Training().state(), Policy(recovery_keep=1), asynchronous=False) as saves:
        saves.save(1, "recovery")
        with monkeypatch.context() as patch:
            patch.setattr(CheckpointFolders, "remove", failing(None))
            with pytest.warns(CheckpointWarning, match="could not remove"):
                saves.save(2, "recovery")
        saves.save(3, "recovery")
    assert [path.name for path in (tmp_path / "recovery").iterdir()] == ["step-00000003.dcp"]
    assert notes.names().count("retention_failed") == 1


def test_an_interrupt_cleans_up_and_goes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "write", interrupt)
    with (
        Checkpointer(Notes(tmp_path), Training().state(), POLICY, asynchronous=False) as saves,
        pytest.raises(KeyboardInterrupt),
    ):
        saves.save(1, "recovery")
    assert not hidden(tmp_path)


NURSERY = """
import os, random, signal, sys, time
from pathlib import Path
from postmortem.checkpoint import Checkpointer, Policy
from tests.checkpoint.helpers import Notes, Training

run, kills = Path(sys.argv[1]), int(sys.argv[2])
chance = random.Random(kills)
with Checkpointer(Notes(run.with_name("warm")), Training().state(), asynchronous=False) as saves:
    saves.save(1, "recovery")
for _ in range(kills):
    child = os.fork()
    if child == 0:
        training, policy = Training(), Policy(2, 4, rollback_keep=2, recovery_keep=1)
        with Checkpointer(Notes(run), training.state(), policy) as saves:
            came = saves.resume()
            training.run(came.step if came else 0, 100_000, saves)
    time.sleep(chance.uniform(0.05, 0.4))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    link = run / "latest"
    assert not link.is_symlink() or (link / "checkpoint.json").exists()
"""


@pytest.mark.bits
@pytest.mark.processes
@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_any_instant_it_resumes_the_straight_run(tmp_path: Path, kills: int) -> None:
    run = tmp_path / "run"
    ended = subprocess.run(
        [sys.executable, "-c", NURSERY, str(run), str(kills)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    notes, resumed = Notes(run), Training()
    with Checkpointer(notes, resumed.state(), POLICY) as saves:
        assert not hidden(run)
        came = saves.resume()
    assert came is not None and came.step > 0 and "checkpoint_refused" not in notes.names()
    straight = Training()
    straight.run(0, came.step)
    assert same(resumed.state().state_dict(), straight.state().state_dict())


def test_leftovers_are_swept_and_nothing_else_is(tmp_path: Path) -> None:
    left = tmp_path / "recovery" / ".step-00000004.dcp.tmp-123"
    foreign = [tmp_path / "recovery" / name for name in ("step-00000007.pt", ".keep", "step-00000006.dcp")]
    for folder in (left, foreign[2]):
        folder.mkdir(parents=True)
        (folder / "__0_0.distcp").write_bytes(b"x")
    for file in foreign[:2]:
        file.write_bytes(b"x")
    with Checkpointer(Notes(tmp_path), Training().state(), POLICY):
        pass
    assert not left.exists() and all(path.exists() for path in foreign)


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("way", ["resume", "verify=False", "load", "behind the gate"])
def test_a_malicious_table_runs_nothing(tmp_path: Path, way: str) -> None:
    run, trace = tmp_path / "run", tmp_path / "trace"
    training = Training()
    with Checkpointer(Notes(run), training.state(), POLICY, asynchronous=False) as saves:
        path = saves.save(1, "recovery")
        (path / ".metadata").write_bytes(pickle.dumps(Evil(trace)))
        said = manifest.read(path)
        files = {**said.files, ".metadata": manifest.digest(path / ".metadata")}
        manifest.write(
            path, manifest.CheckpointManifest(**{**vars(said), "files": files})
        )  # checksums are no signature
        ways: dict[str, Callable[[], object]] = {
            "resume": lambda: saves.resume(verify=True),
            "verify=False": lambda: saves.resume(verify=False),
            "load": lambda: load_checkpoint(path),
            "behind the gate": lambda: _dcp.Shards(path),
        }
        with pytest.raises(UnreadableInput, match="mkdir"):
            ways[way]()
    assert not trace.exists()


def test_a_plain_dcp_directory_is_read_by_the_same_gate(tmp_path: Path) -> None:
    state = {"model": {"w": torch.arange(6.0)}, "steps": 3, "note": "fine"}
    with pytest.warns(UserWarning, match="single process"):
        dcp.save(dict(state), checkpoint_id=tmp_path / "plain")
    assert same(load_checkpoint(tmp_path / "plain"), state)
    with pytest.warns(UserWarning, match="single process"):
        dcp.save({"model": {"w": torch.ones(1)}, "x": Evil(tmp_path / "trace")}, checkpoint_id=tmp_path / "evil")
    with pytest.raises(UnreadableInput):
        load_checkpoint(tmp_path / "evil")
    assert not (tmp_path / "trace").exists()


def test_a_table_that_leads_outside_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="single process"):
        dcp.save({"w": torch.ones(3)}, checkpoint_id=tmp_path / "plain")
    file = tmp_path / "plain" / ".metadata"
    table = pickle.loads(file.read_bytes())
    next(iter(table.storage_data.values())).relative_path = "../outside.distcp"
    (tmp_path / "plain" / "__0_0.distcp").rename(tmp_path / "outside.distcp")
    file.write_bytes(pickle.dumps(table))
    with pytest.raises(UnreadableInput, match="outside"):
        load_checkpoint(tmp_path / "plain")
    with pytest.raises(UnreadableInput, match="leads outside"):
        _dcp.Shards(tmp_path / "plain")


@pytest.mark.parametrize("wrong", [{"step": "2"}, {"step": True}, {"role": 5}, {"value": "x"}, {"files": {"a": 1}}])
def test_a_manifest_made_by_hand_is_refused_whatever_it_holds(tmp_path: Path, wrong: dict[str, Any]) -> None:
    notes = Notes(tmp_path)
    with Checkpointer(notes, Training().state(), POLICY) as checkpoints:
        paths = [checkpoints.save(step, "recovery") for step in (1, 2)]
    keys = {key: value for key, value in as_json(manifest.read(paths[1])).items() if value is not None} | wrong
    keys |= {"format": manifest.FORMAT}
    checksum = manifest._checksum(keys, "here")  # of somebody who knows how it is made
    (paths[1] / manifest.NAME).write_text(json.dumps({**keys, "checksum": checksum}))
    checkpoints = Checkpointer(notes, Training().state(), POLICY)
    with checkpoints, pytest.warns(CheckpointWarning, match=r"is not the manifest of a checkpoint \(.*: expected"):
        resumed = checkpoints.resume()
    assert resumed is not None and resumed.step == 1


def test_a_link_to_a_name_that_no_file_can_have_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / manifest.NAME).symlink_to("n" * 300)
    with pytest.raises(UnreadableInput, match="cannot be read"):
        manifest.read(tmp_path)


def test_a_pipe_in_place_of_a_manifest_is_not_waited_for(tmp_path: Path) -> None:
    place = tmp_path / "recovery" / "step-00000001.dcp"
    place.mkdir(parents=True)
    os.mkfifo(place / manifest.NAME)
    with pytest.raises(UnreadableInput, match="no regular file"):
        manifest.read(place)


def test_a_second_checkpointer_is_kept_out_until_the_first_is_closed(tmp_path: Path) -> None:
    with Checkpointer(Notes(tmp_path), Training().state(), POLICY) as first:
        kept = first.save(1, "recovery")
        first.wait()
        left = kept.with_name(f".{kept.name}.tmp-1")
        left.mkdir()
        with pytest.raises(UsageError, match="saves checkpoints here"):
            Checkpointer(Notes(tmp_path), Training().state(), POLICY)
        assert left.exists() and kept.exists()
    with Checkpointer(Notes(tmp_path), Training().state(), POLICY):
        assert not left.exists()


@pytest.mark.processes
def test_a_killed_checkpointers_claim_ends_with_it(tmp_path: Path) -> None:
    """A worker forked from it lives on, and holds nothing."""
    script = f"""
import os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from postmortem.checkpoint._saving_lock import SavingLock
claim = SavingLock(Path({str(tmp_path)!r}))
heard, said = os.pipe()
if os.fork() == 0:
    os.write(said, b"!")
    time.sleep(5)
    os._exit(0)
os.read(heard, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, stdout=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    SavingLock(tmp_path).release()
