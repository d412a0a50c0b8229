"""Every call by which a command changes the disk fails in turn: exit code 4 and one message, what stood there before is
whole, nothing half-written remains, and the same command works once there is room."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from postmortem import cli, diff, pipeline
from postmortem.report import canvas
from tests.faults import SHORT, FailingDisk, failing_disk, temporary_names
from tests.samples import sample

pytestmark = pytest.mark.heavy
_NOTE = "\nWritten by hand.\n"


@dataclass(frozen=True)
class Command:
    """`words` run in the folder of a run; `results` are what it writes there (glob patterns)."""

    words: tuple[str, ...]
    results: tuple[str, ...]


COMMANDS = {
    "draft": Command(
        ("draft", "run"),
        ("run/postmortem/report.md", "run/postmortem/diagnosis.json", "run/postmortem/panels/*", "lessons.md"),
    ),
    "diff": Command(("diff", "run", "run", "--out", "out"), ("out/*",)),
}  # fmt: skip


def once(compute: Callable[..., Any]) -> Callable[..., Any]:
    """`compute`, whose first result is kept."""
    kept: list[Any] = []

    def computed(*arguments: Any, **options: Any) -> Any:
        if not kept:
            kept.append(compute(*arguments, **options))
        return kept[0]

    return computed


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command in a folder: (exit code, stderr). What it computes and draws of its run, which is the same in every
    folder, is kept from the first call on: here it is about what it then does with the disk."""
    for module, name in ((pipeline, "diagnose"), (diff, "diff_runs"), (canvas, "draw")):
        monkeypatch.setattr(module, name, once(getattr(module, name)))

    def called(folder: Path, words: Sequence[str]) -> tuple[int, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["postmortem", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), capsys.readouterr().err

    return called


def contents(folder: Path, patterns: Sequence[str]) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for pattern in patterns
        for path in folder.glob(pattern)
        if path.is_file()
    }


def prepared(folder: Path, words: Sequence[str], *, again: bool, run: Callable[..., tuple[int, str]]) -> Path:
    """A folder with a run; with `again`, also with what an earlier command wrote, each text with a mark of its own."""
    folder.mkdir(parents=True)
    shutil.copytree(sample("19-spike-001"), folder / "run")
    if again:
        assert run(folder, words)[0] == 0
        report = folder / "run" / "postmortem" / "report.md"
        if report.exists():
            report.write_text(report.read_text() + _NOTE)
    return folder


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("again", [False, True], ids=["new", "again"])
@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_call_fails_once_and_for_good(
    name: str, again: bool, every: int, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    """With `every` 10, a tenth of the calls, which differ from command to command."""
    command = COMMANDS[name]
    first = prepared(tmp_path / "counted", command.words, again=again, run=run)
    with failing_disk(first) as disk:
        assert run(first, command.words)[0] == 0
    wanted = contents(first, command.results)
    start = prepared(tmp_path / "start", command.words, again=again, run=run)
    before = contents(start, command.results)
    assert wanted and bool(before) == again
    for call, error, lasting in chosen(disk)[len(name) % every :: every]:
        folder = tmp_path / f"{call}-{error}-{lasting}"
        shutil.copytree(start, folder, symlinks=True)
        with failing_disk(folder) as broken:
            broken.fail_at, broken.error, broken.lasting = call, error, lasting
            code, err = run(folder, command.words)
        what = (broken.calls[call:][:1], error, lasting, code, err)
        after = contents(folder, command.results)
        assert code in (0, 4) and len(err.splitlines()) <= 1, what
        assert code == 4 or after == wanted, what
        assert temporary_names(folder) == [], what
        assert all(data in (wanted.get(file), before.get(file)) for file, data in after.items()), what
        assert before.keys() <= after.keys(), what
        assert run(folder, command.words)[0] == 0
        assert contents(folder, command.results) == wanted, what
        shutil.rmtree(folder)


def chosen(disk: FailingDisk) -> list[tuple[int, int, bool]]:
    """(call, error, whether it lasts): each call with a full disk, once and for good, in turn; other errors at some."""
    calls = disk.different_calls()
    writes = [n for n in calls if disk.calls[n].startswith("write")]
    return [
        *((call, errno.ENOSPC, number % 2 == 1) for number, call in enumerate(calls)),
        *((call, SHORT, False) for call in writes[::3]),
        *((call, error, True) for error in (errno.EIO, errno.EROFS) for call in calls[error % 11 :: 11]),
    ]
