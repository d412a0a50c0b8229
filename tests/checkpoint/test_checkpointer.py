"""Cadences, retention, `latest`, the best K."""

from __future__ import annotations

import json
import math
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from postmortem.checkpoint import Checkpointer, CheckpointWarning, Policy, load_checkpoint
from postmortem.checkpoint.manifest import NAME, read
from postmortem.errors import UnreadableInput, UsageError
from postmortem.run.checkpoints import find_checkpoints
from tests.checkpoint.helpers import Notes, Training

POLICY = Policy(rollback_every=2, recovery_every=4, rollback_keep=3, recovery_keep=2)


class Tiny:
    """The least state: one tensor."""

    def __init__(self) -> None:
        self.value = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"model": {"w": torch.tensor([self.value])}, "optimizer": {"step": self.value}}

    def load_state_dict(self, state: Any) -> None:
        self.value = float(state["model"]["w"])


def names(run: Path, role: str) -> list[str]:
    return sorted(path.name for path in (run / role).iterdir()) if (run / role).is_dir() else []


@pytest.mark.parametrize("asynchronous", [True, False])
def test_the_cadences_fill_the_seeds_layout(tmp_path: Path, asynchronous: bool) -> None:
    training, notes = Training(), Notes(tmp_path)
    with Checkpointer(notes, training.state(), POLICY, asynchronous=asynchronous) as saves:
        training.run(0, 13, saves)
    assert names(tmp_path, "rollback") == [f"step-{step:08d}.dcp" for step in (8, 10, 12)]
    assert names(tmp_path, "recovery") == [f"step-{step:08d}.dcp" for step in (8, 12)]
    assert (tmp_path / "latest").readlink() == Path("recovery/step-00000012.dcp")
    saved = [(e["role"], e["step"]) for e in notes.of("checkpoint")]
    deleted = [(e["role"], e["step"]) for e in notes.of("checkpoint_deleted")]
    left = {("rollback", 8), ("rollback", 10), ("rollback", 12), ("recovery", 8), ("recovery", 12)}
    assert set(saved) - set(deleted) == left and len(saved) == 9 and len(deleted) == 4
    assert all(e["contents"] == "full" and e["bytes"] > 0 and e["seconds"] >= 0 for e in notes.of("checkpoint"))
    found, problems = find_checkpoints(tmp_path, ())
    assert {(c.role, c.step) for c in found if c.complete} == left and not problems


def test_what_is_due_together_is_written_once(tmp_path: Path) -> None:
    training = Training()
    with Checkpointer(Notes(tmp_path), training.state(), POLICY, asynchronous=False) as saves:
        recovery, rollback = saves.maybe_save(4)
    assert (recovery.parent.name, rollback.parent.name) == ("recovery", "rollback")
    for file in recovery.iterdir():
        twin = rollback / file.name
        assert file.name == NAME or file.samefile(twin)
    assert (read(recovery).role, read(rollback).role) == ("recovery", "rollback")


def test_what_is_saved_is_the_state_of_that_step(tmp_path: Path) -> None:
    training = Training()
    with Checkpointer(Notes(tmp_path), training.state(), Policy()) as saves:
        training.run(0, 3)
        expected = json.loads(json.dumps({k: v.tolist() for k, v in training.model.state_dict().items()}))
        path = saves.save(3, "rollback")
        training.run(3, 6)  # goes on in place while the state is written
    loaded = load_checkpoint(path)["model"]
    assert {k: v.tolist() for k, v in loaded.items()} == expected


def test_the_same_state_makes_the_same_bytes(tmp_path: Path) -> None:
    files: list[dict[str, Any]] = []
    for run in ("one", "two"):
        training = Training()
        with Checkpointer(Notes(tmp_path / run), training.state(), Policy()) as saves:
            training.run(0, 2)
            path = saves.save(2, "recovery")
        files.append(dict(read(path).files))
    assert files[0] == files[1] and ".metadata" in files[0]


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    with Checkpointer(notes, Tiny(), POLICY) as saves:
        assert len(saves.maybe_save(2)) == 1
        saves.wait()
        assert saves.maybe_save(2) == []
    with Checkpointer(notes, Tiny(), POLICY) as saves:
        assert saves.maybe_save(2) == [] and saves.maybe_save(3) == []
    assert notes.names().count("checkpoint") == 1


@given(
    st.lists(st.tuples(st.sampled_from(["rollback", "recovery", "best"]), st.integers(0, 5)), max_size=14),
    st.integers(1, 3),
    st.integers(1, 3),
)
@settings(max_examples=25)
def test_retention_keeps_the_newest_and_no_more_than_asked(
    tmp_path_factory: pytest.TempPathFactory, saved: list[tuple[str, int]], rollbacks: int, recoveries: int
) -> None:
    run = tmp_path_factory.mktemp("retention")
    policy = Policy(rollback_keep=rollbacks, recovery_keep=recoveries, best_k=2)
    newest: dict[str, int] = {}
    with Checkpointer(Notes(run), Tiny(), policy, asynchronous=False) as saves:
        for step, (role, value) in enumerate(saved, 1):
            if role == "best":
                saves.best(step, float(value))
            else:
                saves.save(step, role)
                newest[role] = step
            for kept, limit in (("rollback", rollbacks), ("recovery", recoveries), ("best-k", 2)):
                assert len(names(run, kept)) <= limit
            for kept, last in newest.items():
                assert f"step-{last:08d}.dcp" in names(run, kept)
            if newest:
                leading = "recovery" if "recovery" in newest else "rollback"
                assert (run / "latest").resolve().name == f"step-{newest[leading]:08d}.dcp"
    values = sorted(value for role, value in saved if role == "best")[:2]
    assert sorted(read(run / "best-k" / name).value or 0 for name in names(run, "best-k")) == values


def test_a_reader_never_finds_latest_absent_or_dangling(tmp_path: Path) -> None:
    stop, troubles, seen = threading.Event(), list[str](), set[str]()

    def read_on() -> None:
        while not stop.wait(1e-4):
            target = (tmp_path / "latest").readlink()
            seen.add(target.name)
            # Between the look at the link and at its target retention may be one ahead: then the link has moved, too.
            if not (tmp_path / "latest" / NAME).exists() and not (tmp_path / "latest" / NAME).exists():
                troubles.append(str(target))

    policy = Policy(rollback_keep=1, recovery_keep=1)
    with Checkpointer(Notes(tmp_path), Tiny(), policy) as saves:
        saves.save(1, "recovery")
        saves.wait()
        reader = threading.Thread(target=read_on)
        reader.start()
        for step in range(2, 40):
            saves.save(step, "recovery")
        saves.wait()
        stop.set()
        reader.join()
    assert not troubles and len(seen) > 3


@pytest.mark.parametrize(
    ("direction", "kept"),
    [("minimize", {"dev-loss-1.000-step-00000003.dcp", "dev-loss-2.000-step-00000002.dcp"}),
     ("maximize", {"dev-loss-3.000-step-00000001.dcp", "dev-loss-2.000-step-00000002.dcp"})],
)  # fmt: skip
def test_the_best_stay_the_earlier_of_equals(tmp_path: Path, direction: Any, kept: set[str]) -> None:
    notes = Notes(tmp_path)
    policy = Policy(best_k=2, best_k_direction=direction)
    with Checkpointer(notes, Training().state(), policy) as saves:
        for step, value in enumerate((3.0, 2.0, 1.0, 2.0), 1):
            saves.best(step, value)
    assert set(names(tmp_path, "best-k")) == kept
    assert not (tmp_path / "latest").exists()
    path = tmp_path / "best-k" / "dev-loss-2.000-step-00000002.dcp"
    assert read(path).contents == "parameters" and list(load_checkpoint(path)) == ["model"]
    with Checkpointer(notes, Training().state(), policy) as saves:  # a later process goes on with the same ranking
        assert saves.best(9, 2.0) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_no_number_is_noted_and_saves_nothing(tmp_path: Path, value: float) -> None:
    notes = Notes(tmp_path)
    with Checkpointer(notes, Tiny(), Policy()) as saves:
        assert saves.best(3, value) is None
    assert notes.names() == ["best_k_refused"] and names(tmp_path, "best-k") == []


def test_deleting_leads_latest_elsewhere_first(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    with Checkpointer(notes, Tiny(), Policy()) as saves:
        saves.save(1, "rollback")
        saves.save(2, "recovery")
        saves.delete("latest")
        assert (tmp_path / "latest").readlink() == Path("rollback/step-00000001.dcp")
        saves.delete("rollback/step-00000001.dcp")
        assert not (tmp_path / "latest").is_symlink()
        assert saves.resume() is None
    assert [e["role"] for e in notes.of("checkpoint_deleted")] == ["recovery", "rollback"]


def test_only_checkpoints_of_the_run_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Checkpointer(Notes(Path("one")), Tiny()) as other, Checkpointer(Notes(Path("two")), Tiny()) as saves:
        theirs = other.save(1, "recovery")
        other.wait()
        with pytest.raises(UnreadableInput, match="leads outside"):
            saves.delete(theirs)
        saves.save(1, "rollback")
        with pytest.raises(UnreadableInput, match=r"checkpoint\.json"):
            saves.delete("rollback")
        saves.delete("latest")
        assert theirs.is_dir() and not Path("two/latest").is_symlink()


def test_parameters_only_is_said_at_every_turn(tmp_path: Path) -> None:
    policy = Policy(rollback_every=2, recovery_every=0, rollback_contents="parameters")
    training, notes = Training(), Notes(tmp_path)
    with pytest.warns(UserWarning, match="only parameters"):
        saves = Checkpointer(notes, training.state(), policy)
    training.run(0, 3, saves)
    saves.wait()
    assert [e["contents"] for e in notes.of("checkpoint")] == ["parameters"]
    assert not (tmp_path / "latest").exists()
    with pytest.warns(CheckpointWarning, match="the optimizer is reset"):
        resumed = saves.resume()
    assert resumed is not None and resumed.optimizer_reset and "optimizer: RESET" in resumed.summary()
    assert "optimizer" in resumed.missing and resumed.restored == ("model",)
    assert notes.of("resume")[0]["optimizer_reset"] is True
    saves.close()


def test_a_full_state_is_preferred_to_newer_parameters(tmp_path: Path) -> None:
    policy = Policy(rollback_every=2, recovery_every=5, rollback_contents="parameters")
    training = Training()
    with pytest.warns(UserWarning, match="only parameters"):
        saves = Checkpointer(Notes(tmp_path), training.state(), policy)
    with saves:
        training.run(0, 6, saves)
        resumed = saves.resume()
    assert resumed is not None and (resumed.step, resumed.role) == (5, "recovery")


def test_hashes_of_each_ranks_parameters_are_kept(tmp_path: Path) -> None:
    training, notes = Training(), Notes(tmp_path)
    with Checkpointer(notes, training.state(), Policy()) as saves:
        path = saves.save(1, "recovery")
    assert read(path).hashes == {"0": notes.state_hashes(training.model.state_dict())}


def test_other_roles_are_refused(tmp_path: Path) -> None:
    with Checkpointer(Notes(tmp_path), Tiny()) as saves, pytest.raises(UsageError, match="rollback or recovery"):
        saves.save(1, "../../etc")


def test_saving_leaves_the_generators_alone(tmp_path: Path) -> None:
    training = Training()
    with Checkpointer(Notes(tmp_path), training.state(), POLICY, asynchronous=False) as saves:
        before = (random.getstate(), torch.get_rng_state())
        saves.maybe_save(4)
        assert random.getstate() == before[0] and torch.get_rng_state().equal(before[1])
