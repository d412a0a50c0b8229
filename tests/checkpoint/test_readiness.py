"""Could a run be rolled back now? One planted trouble at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from postmortem.checkpoint import Policy, readiness
from postmortem.checkpoint.readiness import Readiness, ReadinessCheck, check_readiness
from postmortem.record.writer import RunWriter
from postmortem.sources import open_run
from tests.checkpoint.helpers import Notes, Training
from tests.checkpoint.makers import flipped

STEPS = 35


class Journal(Notes):
    """The run's own journal, as the Checkpointer sees it."""

    def __init__(self, writer: RunWriter) -> None:
        super().__init__(writer.path)
        self.event = writer.event


def record(path: Path, policy: Policy | None = None, *, ranks: int = 1, manifest: dict[str, Any] | None = None) -> Path:
    """A run of 35 steps with rollback checkpoints every 10, and everything that a rollback needs."""
    from postmortem.checkpoint import Checkpointer

    training = Training()
    named = {"program": "package.train:build"} if manifest is None else manifest
    with (
        RunWriter(path, named) as run,
        Checkpointer(
            Journal(run), training.state(), policy or Policy(rollback_every=10, recovery_every=20), asynchronous=False
        ) as saves,
    ):
        for step in range(STEPS):
            run.log(step, {"loss": training.step(), "param_hash": f"hash-{step}"})
            run.batch(step, {"batch_index": step, "batch_hash": f"batch-{step}"})
            saves.maybe_save(step + 1)
    for rank in range(1, ranks):
        with RunWriter(path, rank=rank) as run:
            for step in range(STEPS):
                run.log(step, {"loss": 1.0, "param_hash": f"hash-{step}"})
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("sound") / "run")


@pytest.fixture
def run(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "run", symlinks=True))


def examined(path: Path) -> Readiness:
    return check_readiness(open_run(path))


def the(found: Readiness, name: str) -> ReadinessCheck:
    return next(check for check in found.checks if check.name == name)


def test_a_run_that_can_be_rolled_back(sound: Path) -> None:
    found = examined(sound)
    assert [check for check in found.checks if check.state != "ok"] == []
    assert found.ready and found.target == "rollback/step-00000030.dcp"
    assert (found.newest_step, found.target_step, found.lost_steps) == (34, 30, 5)
    assert found.verdict == "yes, to step 30; 5 steps would be repeated"
    assert the(found, "checkpoint").figure.endswith("saved every 10 steps")
    assert the(found, "soundness").figure == "checksums of the newest: ok"


def no_checkpoints(run: Path) -> None:
    for role in ("rollback", "recovery"):
        shutil.rmtree(run / role)


def cut_short(run: Path) -> None:
    (run / "rollback" / "step-00000010.dcp" / ".metadata").unlink()


def damaged(run: Path) -> None:
    for file in (run / "rollback" / "step-00000010.dcp", run / "recovery"):
        shutil.rmtree(file)
    state = run / "rollback" / "step-00000030.dcp" / ".metadata"
    state.write_bytes(flipped(state.read_bytes(), 50)[:-100])


def newest_damaged_inside(run: Path) -> None:
    file = run / "rollback" / "step-00000030.dcp" / "__0_0.distcp"
    file.write_bytes(flipped(file.read_bytes(), file.stat().st_size - 2000))


def saving_stopped(run: Path) -> None:
    shutil.rmtree(run / "rollback" / "step-00000030.dcp")


def journaled(**event: Any) -> Callable[[Path], None]:
    def plant(run: Path) -> None:
        with (run / "journal.jsonl").open("a") as journal:
            journal.write(json.dumps(event) + "\n")

    return plant


NAN = {"event": "nonfinite_parameters", "names": ["0.weight"]}
TROUBLE: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    "no checkpoints": (no_checkpoints, "checkpoint", "fail", "none found"),
    "cut short": (cut_short, "completeness", "warn", "1 of 4 cut short: rollback/step-00000010.dcp"),
    "saving stopped": (
        saving_stopped,
        "checkpoint",
        "warn",
        "no usable one after step 20, although one was due every 10 steps; newest row 34: 15 steps would be repeated",
    ),
    "NaN before": (journaled(**NAN, step=25), "finite", "fail", "from step 25 on, before the checkpoint"),
    "NaN after": (journaled(**NAN, step=33), "finite", "warn", "from step 33 on"),
}


@pytest.mark.parametrize("what", TROUBLE)
def test_one_trouble(what: str, run: Path) -> None:
    plant, name, state, figure = TROUBLE[what]
    plant(run)
    found = examined(run)
    check = the(found, name)
    assert check.state == state and figure in check.figure and check.fix
    assert found.ready == (state != "fail")
    assert found.verdict.startswith("no: " + name if state == "fail" else "yes, to step")


def test_damage_sends_back_further(run: Path) -> None:
    damaged(run)
    found = examined(run)
    assert found.target_step == 20 and the(found, "completeness").state == "warn"


def test_damage_in_the_newest_is_found_by_reading_it(run: Path) -> None:
    newest_damaged_inside(run)
    found = examined(run)
    assert found.target_step == 20 and "damaged" in the(found, "soundness").figure


def test_parameters_only(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="optimizer"):
        path = record(tmp_path / "run", Policy(rollback_every=10, recovery_every=0, rollback_contents="parameters"))
    found = examined(path)
    assert not found.ready and the(found, "full state").state == "fail"
    assert "moments" in the(found, "full state").figure
    with pytest.warns(UserWarning, match="optimizer"):
        path = record(tmp_path / "both", Policy(rollback_every=10, recovery_every=20, rollback_contents="parameters"))
    found = examined(path)
    assert found.ready and found.target_step == 20 and the(found, "full state").state == "warn"


def test_a_non_finite_newest_sends_back_further(run: Path) -> None:
    from postmortem.checkpoint import Checkpointer

    shutil.rmtree(run / "rollback" / "step-00000030.dcp")
    training = Training()
    training.step()
    with torch.no_grad():
        training.model[0].weight[0, 0] = float("nan")
    with (
        pytest.warns(UserWarning, match="not finite"),
        RunWriter(run) as writer,
        Checkpointer(Journal(writer), training.state(), asynchronous=False) as saves,
    ):
        saves.save(30, "rollback")
    found = examined(run)
    check = the(found, "finite")
    assert check.state == "warn" and "1 non-finite elements at step 30 in model.0.weight" in check.figure
    assert found.target_step == 20 and found.ready
    shutil.rmtree(run / "recovery")
    for step in (10, 20):
        shutil.rmtree(run / "rollback" / f"step-000000{step}.dcp")
    found = examined(run)
    assert the(found, "finite").state == "fail" and found.target_step == 30


@pytest.mark.parametrize(("ends", "state"), [(False, "warn"), (True, "ok")])
def test_a_run_that_ended_has_not_stopped_saving(ends: bool, state: str, run: Path) -> None:
    with RunWriter(run) as writer:
        for step in range(STEPS, STEPS + 40):
            writer.log(step, {"loss": 1.0})
        if ends:
            writer.event("run_end", STEPS + 40, status="completed")
    check = the(examined(run), "checkpoint")
    assert check.state == state and ("due every" in check.figure) == (not ends)


@pytest.mark.parametrize("ends", [False, True])
def test_a_cadence_that_is_too_coarse_for_a_rollback(ends: bool, tmp_path: Path) -> None:
    from postmortem.checkpoint import Checkpointer

    training = Training()
    policy = Policy(rollback_every=0, recovery_every=1000)
    with RunWriter(tmp_path / "run") as run:
        with Checkpointer(Journal(run), training.state(), policy, asynchronous=False) as saves:
            for step in range(0, 2900, 50):
                run.log(step, {"loss": 1.0})
                saves.maybe_save(step)
        if ends:
            run.event("run_end", 2900, status="completed")
    check = the(examined(tmp_path / "run"), "checkpoint")
    assert check.state == "warn" and "851 steps would be repeated" in check.figure and "rollback_every" in check.fix


def test_what_is_not_logged(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunWriter(path) as run:
        for step in range(5):
            run.log(step, {"loss": 1.0})
    found = examined(path)
    assert {check.name: check.state for check in found.checks} == {
        "checkpoint": "fail",
        "skippable loader": "warn",
        "batch hashes": "warn",
    }
    with RunWriter(path) as run:
        run.batch(4, {"batch_index": 4})
    assert "names no program" in the(examined(path), "skippable loader").figure


def test_replicas(tmp_path: Path) -> None:
    path = record(tmp_path / "run", ranks=3)
    assert the(examined(path), "replicas") == ReadinessCheck(
        "replicas", "ok", "3 ranks agree at all 35 steps with a hash"
    )
    with RunWriter(path, rank=2) as run:
        for step in range(17, STEPS):
            run.log(step, {"param_hash": "other"})
    check = the(examined(path), "replicas")
    assert (check.state, check.figure) == ("fail", "ranks differ from step 17 on (rank 2)")


def test_replicas_without_hashes(tmp_path: Path) -> None:
    path = tmp_path / "run"
    for rank in range(2):
        with RunWriter(path, rank=rank) as run:
            run.log(0, {"loss": 1.0})
    assert the(examined(path), "replicas").state == "warn"


@pytest.mark.parametrize(("times", "state"), [(0.5, "fail"), (2, "warn"), (10, "ok")])
def test_disk(run: Path, times: float, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(file.stat().st_size for file in (run / "recovery" / "step-00000020.dcp").iterdir())
    usage = SimpleNamespace(total=0, used=0, free=int(times * size))
    monkeypatch.setattr(readiness.shutil, "disk_usage", lambda path: usage)
    assert the(examined(run), "disk").state == state


def test_large_checkpoints_are_not_read_in_full(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "READ_LIMIT", 10)
    assert "too large" in the(examined(run), "soundness").figure


def test_a_log_file_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n0,1.0\n1,0.9\n")
    assert not examined(tmp_path / "metrics.csv").ready
