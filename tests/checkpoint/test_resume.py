"""Resume: the straight run's bits, the config it ended with, and the checkpoint that was sound."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn

from postmortem.checkpoint import Checkpointer, CheckpointWarning, Policy, TrainState
from postmortem.checkpoint.manifest import NAME, read
from postmortem.errors import UnreadableInput, UsageError
from tests.checkpoint.helpers import Notes, Training, same

pytestmark = [pytest.mark.bits, pytest.mark.heavy]
POLICY = Policy(rollback_every=2, recovery_every=4, rollback_keep=5)


def trained(run: Path, until: int = 9) -> Training:
    training = Training()
    with Checkpointer(Notes(run), training.state(), POLICY) as saves:
        training.run(0, until, saves)
    return training


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at % len(data)] ^= 0x10
    file.unlink()  # not through the hard link into the other role's checkpoint
    file.write_bytes(data)


def test_it_goes_on_with_the_straight_runs_bits(tmp_path: Path) -> None:
    straight = trained(tmp_path)
    ninth = copy.deepcopy(straight.state().state_dict())
    rest = straight.run(9, 15)
    with Checkpointer(notes := Notes(tmp_path), (resumed := Training()).state(), POLICY) as saves:
        came = saves.resume()
        assert came is not None and came.step == 8
        resumed.run(8, 9)
        assert same(resumed.state().state_dict(), ninth)
        assert resumed.run(9, 15, saves) == rest
    assert same(resumed.state().state_dict(), straight.state().state_dict())
    assert came.summary().splitlines()[0] == "resumed from step 8"
    assert came.restored == ("model", "optimizer", "scheduler", "loader", "extra", "rng")
    assert came.missing == () and came.changed == {} and not came.optimizer_reset
    (told,) = notes.of("resume")
    assert told["from_step"] == 8 and told["checkpoint"] == "recovery/step-00000008.dcp"


def test_a_run_without_checkpoints_begins_afresh(tmp_path: Path) -> None:
    with Checkpointer(notes := Notes(tmp_path), Training().state(), POLICY) as saves:
        assert saves.resume() is None
    assert notes.events == []


def test_the_effective_config_is_held_against_the_one_asked_for(tmp_path: Path) -> None:
    """OPT-175B went on with betas (0.9, 0.98) where (0.9, 0.95) had been asked for: a checkpoint brings its own."""
    trained(tmp_path)
    asked = Training(betas=(0.9, 0.98), lr=3e-3, decay=0.05)
    asked.scheduler.T_max = 80
    with Checkpointer(notes := Notes(tmp_path), asked.state(), POLICY) as saves:
        came = saves.resume()
    assert came is not None
    assert came.changed == {
        "optimizer.group0.weight_decay": (0.05, 0.1),
        "optimizer.group0.betas": ((0.9, 0.98), (0.9, 0.95)),
        "optimizer.group0.initial_lr": (3e-3, 1e-2),
        "optimizer.group1.betas": ((0.9, 0.98), (0.9, 0.95)),
        "optimizer.group1.initial_lr": (3e-3, 1e-2),
        "scheduler.T_max": (80, 40),
        "scheduler.base_lrs": ([3e-3, 3e-3], [1e-2, 1e-2]),
    }
    assert "optimizer.group0.betas: built with (0.9, 0.98), continues with (0.9, 0.95)" in came.summary()
    assert notes.of("resume")[0]["changed"]["scheduler.T_max"] == [80, 40]
    assert asked.optimizer.param_groups[0]["betas"] == (0.9, 0.95)


def test_parts_are_left_out_on_purpose(tmp_path: Path) -> None:
    trained(tmp_path)
    fresh = Training()
    with Checkpointer(notes := Notes(tmp_path), fresh.state(), POLICY) as saves:
        came = saves.resume(parts=["model", "optimizer.param_groups", "loader"])
    assert came is not None and came.restored == ("model", "optimizer.param_groups", "loader")
    assert came.missing == ("optimizer.state", "scheduler", "extra", "rng")
    assert fresh.loader.next == 8 and not fresh.optimizer.state and fresh.scheduler.last_epoch == 0
    assert notes.of("resume")[0]["missing"] == list(came.missing)
    with Checkpointer(Notes(tmp_path), fresh.state(), POLICY) as saves, pytest.raises(UsageError, match="no 'sampler'"):
        saves.resume(parts=["sampler"])


def test_what_the_checkpoint_lacks_and_what_nothing_takes_is_said(tmp_path: Path) -> None:
    trained(tmp_path)
    fresh = Training()
    other = TrainState(fresh.model, fresh.optimizer, scaler=torch.amp.GradScaler("cpu"))
    with Checkpointer(Notes(tmp_path), other, POLICY) as saves, pytest.warns(CheckpointWarning, match="without scaler"):
        came = saves.resume()
    assert came is not None and came.missing == ("scaler",)
    assert came.unused == ("scheduler", "loader", "extra")
    assert "not in this program: scheduler, loader, extra" in came.summary()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 6)), "this model does not have 4.weight"),
        (lambda: Training().model.append(nn.Linear(1, 1)), "the checkpoint does not have 5.weight, 5.bias"),
        (lambda: nn.Sequential(nn.Linear(4, 9), *list(Training().model)[1:]), "another shape: 0.weight"),
    ],
    ids=["fewer", "more", "other shape"],
)
def test_another_model_is_refused_and_left_as_it_is(tmp_path: Path, model: Any, said: str) -> None:
    trained(tmp_path)
    built = model()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    with Checkpointer(Notes(tmp_path), TrainState(built), POLICY) as saves, pytest.raises(UsageError, match=said):
        saves.resume()
    assert same(dict(built.state_dict()), before)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "state-0.json", NAME])
@pytest.mark.parametrize("at", [40, -40, 777])
def test_one_flipped_byte_and_the_one_before_is_taken(tmp_path: Path, name: str, at: int) -> None:
    trained(tmp_path)
    flip(tmp_path / "recovery" / "step-00000008.dcp" / name, at)
    fresh, notes = Training(), Notes(tmp_path)
    with Checkpointer(notes, fresh.state(), POLICY) as saves:
        with pytest.warns(CheckpointWarning, match="refused recovery"):
            came = saves.resume()
        assert came is not None and (came.role, came.step) == ("rollback", 8)
    (refused,) = notes.of("checkpoint_refused")
    assert refused["path"] == "recovery/step-00000008.dcp" and refused["reason"]
    # Nothing leads to the damaged one, and the next save of that step takes its place.
    assert (tmp_path / "latest").readlink() == Path("recovery/step-00000004.dcp")
    with Checkpointer(notes, fresh.state(), POLICY) as saves:
        saves.save(8, "recovery")
    assert read(tmp_path / "recovery" / "step-00000008.dcp").discarded is None
    assert (tmp_path / "latest").readlink() == Path("recovery/step-00000008.dcp")


def test_where_all_are_damaged_it_does_not_quietly_begin_afresh(tmp_path: Path) -> None:
    trained(tmp_path)
    for file in tmp_path.glob("r*/*/*.distcp"):
        flip(file, 300)
    with Checkpointer(Notes(tmp_path), Training().state(), POLICY) as saves:
        with pytest.raises(UnreadableInput, match="every checkpoint was refused"):
            saves.resume()
        with pytest.raises(UnreadableInput, match=r"__0_0\.distcp"):
            saves.resume("rollback/step-00000006.dcp")


def test_going_back_sets_aside_what_came_after(tmp_path: Path) -> None:
    trained(tmp_path, until=11)
    fresh, notes = Training(), Notes(tmp_path)
    with Checkpointer(notes, fresh.state(), POLICY) as saves:
        came = saves.resume("rollback/step-00000006.dcp")
        assert came is not None and came.step == 6
        assert (tmp_path / "latest").readlink() == Path("recovery/step-00000004.dcp")
    assert notes.of("resume")[0]["set_aside"] == [
        *("rollback/step-00000008.dcp", "recovery/step-00000008.dcp", "rollback/step-00000010.dcp"),
    ]
    for _ in range(2):  # whoever resumes now is not led into the stretch that was left, with no save in between
        with Checkpointer(notes, Training().state(), POLICY) as saves:
            came = saves.resume()
            assert came is not None and came.step == 6
    with Checkpointer(notes, fresh.state(), POLICY) as saves:
        fresh.run(6, 8, saves)
    assert (tmp_path / "latest").readlink() == Path("recovery/step-00000008.dcp")
    assert read(tmp_path / "rollback" / "step-00000008.dcp").discarded is None
    assert read(tmp_path / "rollback" / "step-00000010.dcp").discarded == "resumed from step 6"


def test_what_was_set_aside_is_history_again_once_it_is_gone_on_from(tmp_path: Path) -> None:
    trained(tmp_path)
    with Checkpointer(Notes(tmp_path), Training().state(), POLICY) as saves:
        saves.resume("rollback/step-00000006.dcp")
        saves.resume("recovery/step-00000008.dcp")
    assert read(tmp_path / "latest").step == 8 and read(tmp_path / "latest").discarded is None


def test_a_checkpoint_of_another_run_can_be_gone_on_from(tmp_path: Path) -> None:
    straight = trained(tmp_path / "one", until=8)
    fresh, notes = Training(), Notes(tmp_path / "two")
    with Checkpointer(notes, fresh.state(), POLICY) as saves:
        came = saves.resume(tmp_path / "one" / "latest", verify=False)
    assert came is not None and came.step == 8
    assert same(fresh.state().state_dict(), straight.state().state_dict())
    assert notes.of("resume")[0]["checkpoint"] == str((tmp_path / "one/recovery/step-00000008.dcp").resolve())


def test_an_optimizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    with Checkpointer(Notes(tmp_path), TrainState(model, torch.optim.AdamW(model.parameters()))) as checkpoints:
        checkpoints.save(1, "recovery")
    other = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    with Checkpointer(Notes(tmp_path), other) as checkpoints:
        with pytest.raises(UsageError, match=r"its optimizer is not this one: it has .*betas.* has dampening"):
            checkpoints.resume()
        resumed = checkpoints.resume(parts=["model"])
    assert resumed is not None and resumed.step == 1
