"""What files, disks, terminals and memory can raise ends in one message and its exit code, in every command."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer

from postmortem import cli
from postmortem.cli import runs_diff
from postmortem.cli._guard import explained, guarded
from postmortem.errors import CannotWrite, UnreadableInput
from tests.cli.conftest import ROOT

SAMPLE = ROOT / "sample_runs" / "19-spike-001"
COMMANDS = [(app, info) for app in (cli.app, runs_diff.app) for info in app.registered_commands]


def name_of(info: typer.models.CommandInfo) -> str:
    assert info.callback is not None
    return str(info.callback.__name__)


def of_system(number: int, file: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), file) if file else OSError(number, os.strerror(number))


FAULTS: dict[str, tuple[BaseException, int, str]] = {
    "full disk": (of_system(errno.ENOSPC, "out/report.md"), 4, "out/report.md: cannot be written"),
    "quota": (of_system(errno.EDQUOT, "out/report.md"), 4, "out/report.md: cannot be written"),
    "read-only": (of_system(errno.EROFS, "out/report.md"), 4, "out/report.md: cannot be written"),
    "full output": (of_system(errno.ENOSPC), 4, "the standard output cannot be written"),
    "closed output": (of_system(errno.EBADF), 4, "the standard output is closed"),
    "terminal gone": (of_system(errno.EIO), 4, "the standard output is closed"),
    "reader gone": (of_system(errno.EPIPE), 0, ""),
    "missing": (of_system(errno.ENOENT, "run/x"), 3, "run/x: cannot be read (No such file"),
    "forbidden": (of_system(errno.EACCES, "run/x"), 3, "run/x: cannot be read (Permission"),
    "a folder": (of_system(errno.EISDIR, "run/x"), 3, "run/x: cannot be read (Is a directory"),
    "long name": (of_system(errno.ENAMETOOLONG, "x" * 300), 3, "cannot be read (File name too long"),
    "a circle of links": (of_system(errno.ELOOP, "run/x"), 3, "run/x: cannot be read (Too many"),
    "too many files": (of_system(errno.EMFILE, "run/x"), 3, "run/x: cannot be read (Too many open"),
    "no memory for a mapping": (of_system(errno.ENOMEM), 3, "reading failed"),
    "damaged name": (of_system(errno.ENOENT, "run/\x1b[2J\udcff"), 3, "cannot be read"),
    "memory": (MemoryError(), 3, "more memory than there is"),
    "nesting": (RecursionError("maximum recursion depth exceeded"), 3, "nested too deeply"),
    "bytes that are no text": (
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        3,
        "not valid Unicode",
    ),
    "no bytes": (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates"), 3, "not valid Unicode"),
    "cut short": (EOFError(), 3, "cut short or damaged"),
    "no archive": (zipfile.BadZipFile("File is not a zip file"), 3, "cut short or damaged"),
    "no Parquet": (pa.ArrowInvalid("Parquet magic bytes not found"), 3, "a Parquet file"),
    "null byte": (ValueError("embedded null byte"), 3, "a path in the input is not valid"),
    "Ctrl-C": (KeyboardInterrupt(), 130, ""),
    "a defect": (KeyError("x"), 70, "internal error, please report it (KeyError: 'x')"),
}


@cache
def raising(number: int) -> tuple[Any, list[BaseException]]:
    """(the commands of an application, one of which raises the last error of a list; the list). Typer makes all anew
    for every call, which would be most of the work here."""
    app, info = COMMANDS[number]
    errors: list[BaseException] = []

    def command() -> None:
        raise errors[-1]

    command.__name__ = name_of(info)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(info, "callback", explained(command))
        return typer.main.get_command(app), errors


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[name_of(info) for _, info in COMMANDS])
def test_every_command_explains_every_fault(
    number: int, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (app, info), (error, code, message) = COMMANDS[number], FAULTS[fault]
    assert info.callback is not None and info.callback.__code__ is explained(print).__code__, "not `explained`"
    commands, errors = raising(number)
    errors.append(error)
    monkeypatch.setattr(typer.main, "get_command", lambda _: commands)
    words = [name_of(info).replace("_", "-")] if app is cli.app else []
    with pytest.raises(SystemExit) as end:
        guarded(lambda: app(words, prog_name="postmortem"))
    shown = capsys.readouterr().err
    assert int(end.value.code or 0) == code
    assert message in shown and shown.count("\n") <= 1 and "\x1b" not in shown and "Traceback" not in shown


PRINTING = (("checkpoints", SAMPLE), ("explain", "bit_flip"), ("--help",), ("draft", "--json", SAMPLE, "--out", "x"))


@pytest.mark.processes
@pytest.mark.parametrize("words", PRINTING, ids=[str(words[0]) for words in PRINTING])
@pytest.mark.parametrize("stream", [">&-", "> /dev/full", "2>&- >&-", "< /dev/null | head -c 1"])
def test_an_output_that_takes_nothing(words: tuple[object, ...], stream: str, tmp_path: Path) -> None:
    if "full" in stream and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = " ".join([sys.executable, "-m", "postmortem", *map(str, words), stream])
    piped = "|" in stream
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (0 if piped else 4), done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert done.stderr.count("\n") <= (1 if "2>&-" not in stream else 0) + ("draft" in words) * 9


@pytest.mark.processes
def test_a_file_that_is_opened_without_standard_streams_is_none_of_them(tmp_path: Path) -> None:
    words = f"{sys.executable} -m postmortem draft {SAMPLE} --out x --lessons l.md"
    done = subprocess.run(
        ["bash", "-c", f"{words} <&- >&- 2>&-"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 4
    assert json.loads((tmp_path / "x" / "diagnosis.json").read_text())["tool"].startswith("postmortem")
    assert (tmp_path / "l.md").read_text().endswith(" -->\n")


def test_what_another_thing_raises_is_our_error_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: Exception) -> Callable[[], object]:
        def command() -> None:
            raise error

        return explained(command)

    with pytest.raises(UnreadableInput) as refused:
        failing(EOFError())()
    assert isinstance(refused.value.__cause__, EOFError)
    with pytest.raises(CannotWrite, match="its own message"):
        failing(CannotWrite("its own message"))()


@pytest.mark.parametrize("words", [("draft", "--a\u202e"), ("report", "a", "\u2066")], ids=["option", "word"])
def test_a_wrong_command_line_is_shown_without_invisible_characters(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["postmortem", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    err = capsys.readouterr().err
    assert end.value.code == 2 and "Usage: postmortem" in err and "\ufffd" in err
    assert all(line.isprintable() for line in err.splitlines())
