"""What is known of a checkpoint before anybody continues from it: recorded, looked at once and kept, or not known."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from postmortem.checkpoint import Checkpointer, Policy, health
from postmortem.checkpoint.health import Health, RunHealth
from postmortem.errors import UnreadableInput
from postmortem.run import Checkpoint
from postmortem.run.checkpoints import find_checkpoints
from tests.checkpoint.helpers import Notes, Training
from tests.checkpoint.makers import dcp, state

EVERY = Policy(rollback_every=1, recovery_every=0, best_k=0, rollback_keep=2)


def poisoned(values: dict[str, Any], value: float = float("nan")) -> dict[str, Any]:
    values["model"]["0.weight"][2, 3] = value
    return values


def checkpoint(root: Path, path: Path) -> Checkpoint:
    (found,) = [c for c in find_checkpoints(root, ())[0] if c.path == path]
    return found


def health_of(root: Path, path: Path) -> Health:
    return RunHealth(root).of(checkpoint(root, path))


def torch_file(root: Path, values: dict[str, Any], step: int = 10) -> Path:
    path = root / "rollback" / f"step-{step:08d}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(values, path)
    return path


def hugging_face(root: Path, values: dict[str, Any], step: int = 10) -> Path:
    folder = root / "rollback" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    pytest.importorskip("safetensors.torch").save_file(values["model"], folder / "model.safetensors")
    torch.save(values["optimizer"], folder / "optimizer.pt")
    torch.save(values["lr_scheduler"], folder / "scheduler.pt")
    return folder


def plain_dcp(root: Path, values: dict[str, Any]) -> Path:
    return dcp(root / "rollback" / "step-00000010.dcp", values)


@pytest.mark.parametrize("write", [torch_file, plain_dcp, hugging_face])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_element_in_any_format_is_no_healthy_checkpoint(write: Any, value: float, tmp_path: Path) -> None:
    assert health_of(tmp_path / "good", write(tmp_path / "good", state())).healthy
    bad = health_of(tmp_path / "bad", write(tmp_path / "bad", poisoned(state(), value)))
    assert bad.state == "not finite" and sum(bad.nonfinite.values()) == 1 and not bad.healthy
    assert "1 element of" in bad.text and "0.weight" in bad.text


@pytest.mark.parametrize("write", [torch_file, plain_dcp, hugging_face])
def test_a_broken_moment_counts_as_much_as_a_weight(write: Any, tmp_path: Path) -> None:
    values = state()
    values["optimizer"]["state"][0]["exp_avg_sq"][0, 0] = float("inf")
    assert health_of(tmp_path, write(tmp_path, values)).state == "not finite"


@pytest.mark.parametrize("write", [torch_file, plain_dcp, hugging_face])
def test_an_attention_mask_is_no_damage(write: Any, tmp_path: Path) -> None:
    values = state()
    values["model"]["mask"] = torch.triu(torch.full((9, 9), float("-inf")), 1)
    assert health_of(tmp_path / "masked", write(tmp_path / "masked", values)).healthy
    values["model"]["mask"][3, 3] = float("nan")
    assert health_of(tmp_path / "nan", write(tmp_path / "nan", values)).state == "not finite"


def test_what_a_callback_keeps_may_be_infinite(tmp_path: Path) -> None:
    """Lightning's ModelCheckpoint begins with an infinite best score."""
    values = state()
    values = {"state_dict": values["model"], "optimizer_states": [values["optimizer"]]}
    values["callbacks"] = {"ModelCheckpoint{'monitor': None}": {"best": torch.tensor(float("inf"))}}
    assert health_of(tmp_path, torch_file(tmp_path, values)).healthy


def test_parameters_alone_are_finite_but_not_healthy(tmp_path: Path) -> None:
    found = health_of(tmp_path, torch_file(tmp_path, {"model": state()["model"]}))
    assert found.state == "finite" and not found.healthy and "resets the optimizer" in found.text


def test_an_optimizer_without_moments_is_no_lack(tmp_path: Path) -> None:
    values = state()
    values["optimizer"] = {"state": {}, "param_groups": values["optimizer"]["param_groups"]}
    assert health_of(tmp_path, torch_file(tmp_path, values)).healthy


def test_what_cannot_be_read_is_not_called_healthy(tmp_path: Path) -> None:
    path = tmp_path / "rollback" / "step-00000010.npz"
    path.parent.mkdir()
    path.write_bytes(b"PK\x03\x04 no archive")
    assert health_of(tmp_path, path).state == "unreadable"


def test_a_large_one_is_not_looked_at_until_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "READ_LIMIT", 1000)
    path = torch_file(tmp_path, poisoned(state()))
    known, one = RunHealth(tmp_path), checkpoint(tmp_path, path)
    assert known.of(one).state == "not looked at" and not known.of(one).healthy
    assert known.of(one, whole=True).state == "not finite" == known.of(one).state


def test_a_look_is_kept_until_the_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = torch_file(tmp_path, poisoned(state()))
    first = RunHealth(tmp_path)
    first.of(checkpoint(tmp_path, path))
    first.keep()
    monkeypatch.setattr(health, "READ_LIMIT", 0)
    assert health_of(tmp_path, path).state == "not finite"
    torch.save(state(), path)
    os.utime(path, ns=(1, 1))
    assert health_of(tmp_path, path).state == "not looked at"


def test_what_loads_a_checkpoint_does_not_rely_on_a_kept_look(tmp_path: Path) -> None:
    """A stranger's run may bring a look that says the opposite, of files with the same names, sizes and times."""
    path = torch_file(tmp_path, poisoned(state()))
    honest = RunHealth(tmp_path)
    honest.of(checkpoint(tmp_path, path))
    honest.keep()
    looks = json.loads((tmp_path / health.KEPT).read_text())
    looks["checkpoints"]["rollback/step-00000010.pt"]["nonfinite"] = {}
    (tmp_path / health.KEPT).write_text(json.dumps(looks))
    known, same = RunHealth(tmp_path), checkpoint(tmp_path, path)
    assert (known.of(same).state, known.of(same).source) == ("finite", "kept")
    assert known.of(same, whole=True).state == "not finite"
    assert known.of(same).state == "not finite", "and it is known from then on"


@pytest.mark.parametrize(
    "content",
    ['{"format": 2, "checkpoints": {}}', "", "[]", '{"format": 1, "checkpoints": {"a": 3}}', "\0", '{"format": 1}'],
)
def test_a_kept_file_that_is_not_ours_is_ignored_and_replaced(content: str, tmp_path: Path) -> None:
    path = torch_file(tmp_path, state())
    (tmp_path / "postmortem").mkdir()
    (tmp_path / health.KEPT).write_text(content)
    known = RunHealth(tmp_path)
    assert known.of(checkpoint(tmp_path, path)).healthy
    known.keep()
    assert list(json.loads((tmp_path / health.KEPT).read_text())["checkpoints"]) == ["rollback/step-00000010.pt"]


def test_a_link_out_of_the_run_is_not_written(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "run", state())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "postmortem").symlink_to(tmp_path / "elsewhere")
    known = RunHealth(tmp_path / "run")
    known.of(checkpoint(tmp_path / "run", path))
    known.keep()
    assert not any((tmp_path / "elsewhere").iterdir())


class TestSaves:
    """What a save records, and what follows from it."""

    def spoiled(self, tmp_path: Path, steps: int = 4, bad: int = 2) -> tuple[Notes, Training]:
        """Checkpoints of steps 1 to `steps`; from step `bad` on, one weight that no loss shows is NaN."""
        notes, training = Notes(tmp_path), Training()
        with (
            pytest.warns(UserWarning, match=r"step \d is not finite .1 element of model.0.weight"),
            Checkpointer(notes, training.state(), EVERY, asynchronous=False) as saves,
        ):
            for step in range(1, steps + 1):
                if step == bad:
                    with torch.no_grad():
                        training.model[0].weight[0, 0] = float("nan")
                saves.maybe_save(step)
        return notes, training

    def test_it_is_recorded_and_nothing_is_read_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spoiled(tmp_path)
        monkeypatch.setattr(health, "READ_LIMIT", 0)
        known = {c.step: RunHealth(tmp_path).of(c) for c in find_checkpoints(tmp_path, ())[0]}
        assert {step: (one.state, one.source) for step, one in known.items()} == {
            1: ("finite", "recorded"),
            3: ("not finite", "recorded"),
            4: ("not finite", "recorded"),
        }, "the newest finite one outlives the two that are kept"
        assert known[4].nonfinite == {"model.0.weight": 1}

    def test_the_journal_says_so_and_latest_leads_to_the_finite_one(self, tmp_path: Path) -> None:
        notes, _ = self.spoiled(tmp_path)
        assert {event["step"]: event.get("nonfinite") for event in notes.of("checkpoint")} == {
            1: None,
            2: 1,
            3: 1,
            4: 1,
        }
        assert (tmp_path / "latest").resolve().name == "step-00000001.dcp"

    @pytest.mark.parametrize("verify", [True, False])
    def test_a_resume_takes_the_newest_finite_one(self, verify: bool, tmp_path: Path) -> None:
        self.spoiled(tmp_path)
        notes, training = Notes(tmp_path), Training()
        with (
            Checkpointer(notes, training.state(), EVERY, asynchronous=False) as saves,
            pytest.warns(UserWarning, match=r"refused .*not finite"),
        ):
            resumed = saves.resume(verify=verify)
        assert resumed is not None and resumed.step == 1
        assert all(bool(torch.isfinite(p).all()) for p in training.model.parameters())

    def test_a_named_one_is_refused_unless_that_is_allowed(self, tmp_path: Path) -> None:
        self.spoiled(tmp_path)
        with Checkpointer(Notes(tmp_path), Training().state(), EVERY, asynchronous=False) as saves:
            with pytest.raises(UnreadableInput, match=r"not finite.*Take an earlier checkpoint"):
                saves.resume("rollback/step-00000004.dcp")
            resumed = saves.resume("rollback/step-00000004.dcp", allow_nonfinite=True)
        assert resumed is not None and resumed.step == 4
