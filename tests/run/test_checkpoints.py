"""The checkpoints of a run, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from postmortem.checkpoint.inspection import inspect
from postmortem.run.checkpoints import find_checkpoints, named_checkpoints, role_of, step_in_name
from postmortem.run.journal import Event


def make(path: Path, *files: str) -> None:
    path.mkdir(parents=True)
    for file in files:
        (path / file).write_bytes(b"1234")


def test_a_save_in_progress_is_no_checkpoint(tmp_path: Path) -> None:
    make(tmp_path / "rollback" / ".step-00000300.dcp.tmp-77", ".metadata", "__0_0.distcp")
    make(tmp_path / "best-k" / ".dev-loss-2.341-step-00000450.dcp.tmp-77", ".metadata", "__0_0.distcp")
    make(tmp_path / "recovery" / "step-00000200.dcp", ".metadata", "__0_0.distcp", "checkpoint.json")
    checkpoints, notes = find_checkpoints(tmp_path, ())
    assert [(c.role, c.step, c.complete, c.size_bytes) for c in checkpoints] == [("recovery", 200, True, 12)]
    assert notes == []


def test_the_step_of_a_best_k_name_is_its_last_number(tmp_path: Path) -> None:
    make(tmp_path / "best-k" / "loss-step-3-2.341-step-00000450.dcp", ".metadata")
    checkpoints, _ = find_checkpoints(tmp_path, ())
    assert [c.step for c in checkpoints] == [450]


def test_foreign_names_are_read_as_ever(tmp_path: Path) -> None:
    make(tmp_path / "recovery" / "checkpoint-500", "model.pt")
    make(tmp_path / "recovery" / "step-600.dcp", "__0_0.distcp")
    (tmp_path / "rollback").mkdir()
    (tmp_path / "rollback" / "ckpt_7.pt.tmp").write_bytes(b"x")
    make(tmp_path / "elsewhere", "state.bin")
    journal = [Event("checkpoint", 8, None, {"path": "elsewhere", "role": "mine"}, 1)]
    checkpoints, _ = find_checkpoints(tmp_path, journal)
    assert [(c.role, c.step, c.complete) for c in checkpoints] == [
        *(("rollback", 7, False), ("mine", 8, True), ("recovery", 500, True), ("recovery", 600, False)),
    ]


AT_THE_TOP = {
    "recovery-00000500": ("recovery", 500),
    "rollback-00000100.dcp": ("rollback", 100),
    "rollback_00000100.pt": ("rollback", 100),
    "best-k-00000450": ("best-k", 450),
    "best_k-dev-loss-2.341-step-00450000.dcp": ("best-k", 450000),
    "recovery-step-7.ckpt": ("recovery", 7),
    "recovery-00000600.tmp": ("recovery", 600),
    ".recovery-00000700.dcp.tmp-77": ("recovery", 700),
}
OTHERS = ("rollback-2", "recovery-notes-00000500", "recovery-00000500.log", "recovery", "step-00000300.dcp")


def test_role_and_step_in_one_name_at_the_top_of_a_run(tmp_path: Path) -> None:
    for name in (*AT_THE_TOP, *OTHERS):
        make(tmp_path / name, ".metadata", "__0_0.distcp")
    assert {Path(name).name for name in named_checkpoints(tmp_path)} == set(AT_THE_TOP)
    checkpoints, _ = find_checkpoints(tmp_path, ())
    complete = {c.path.name: (c.role, c.step) for c in checkpoints if c.complete}
    assert complete == {name: known for name, known in AT_THE_TOP.items() if ".tmp" not in name}
    assert [c.path.name for c in checkpoints if not c.complete] == ["recovery-00000600.tmp"]


def test_a_role_in_the_name_counts_where_the_journal_gives_none(tmp_path: Path) -> None:
    make(tmp_path / "saves" / "recovery-00000500", ".metadata")
    journal = [Event("checkpoint", None, None, {"path": "saves/recovery-00000500"}, 1)]
    assert [(c.role, c.step) for c in find_checkpoints(tmp_path, journal)[0]] == [("recovery", 500)]


@pytest.mark.parametrize("name", [*AT_THE_TOP, "loss-step-3-2.341-step-00000450.dcp", "model.ckpt-12", "step-5"])
def test_every_command_reads_the_same_step_and_role_in_a_name(tmp_path: Path, name: str) -> None:
    for path in (tmp_path / name, tmp_path / "best-k" / name):
        make(path, ".metadata")
        looked = inspect(path, deep=False)
        assert (looked.step, looked.role) == (step_in_name(name), role_of(path)) and looked.step is not None
    assert role_of(tmp_path / "best-k" / name) == "best-k"


def saved(step: int, line: int, contents: str = "full") -> Event:
    keys = {"path": f"rollback/step-{step:08d}.dcp", "role": "rollback", "contents": contents}
    return Event("checkpoint", step, None, keys, line)


def test_what_a_resume_set_aside_is_left_out_until_it_is_saved_again(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        make(tmp_path / "rollback" / f"step-{step:08d}.dcp", ".metadata")
    left = ["rollback/step-00000200.dcp", "rollback/step-00000300.dcp"]
    keys = {"from_step": 100, "checkpoint": "rollback/step-00000100.dcp", "set_aside": left}
    journal = [saved(100, 1), saved(200, 2), saved(300, 3), Event("resume", 100, None, keys, 4)]
    assert [c.step for c in find_checkpoints(tmp_path, journal)[0]] == [100]
    assert [c.step for c in find_checkpoints(tmp_path, [*journal, saved(200, 5)])[0]] == [100, 200]
    back = Event("resume", 300, None, {"from_step": 300, "checkpoint": left[1], "set_aside": []}, 5)
    assert [c.step for c in find_checkpoints(tmp_path, [*journal, back])[0]] == [100, 300]


def test_parameters_only_is_known_from_the_journal(tmp_path: Path) -> None:
    for step in (100, 200):
        make(tmp_path / "rollback" / f"step-{step:08d}.dcp", ".metadata")
    checkpoints, _ = find_checkpoints(tmp_path, [saved(100, 1), saved(200, 2, "parameters")])
    assert [c.parameters_only for c in checkpoints] == [False, True]


def test_ten_thousand_events_of_checkpoints_that_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is resolved: only links and ways out are."""
    (tmp_path / "rollback").mkdir()
    resolved: list[Path] = []
    resolve = Path.resolve
    monkeypatch.setattr(Path, "resolve", lambda path, strict=False: resolved.append(path) or resolve(path, strict))
    journal = [saved(step, step) for step in range(1, 10_001)]
    assert find_checkpoints(tmp_path, journal) == ((), [])
    assert len(resolved) < 10
