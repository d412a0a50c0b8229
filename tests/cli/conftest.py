"""The commands from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
import typer

from postmortem import cli

ROOT = Path(__file__).parents[2]
Call = Callable[..., tuple[int, str, str]]
_commands_of = cache(typer.main.get_command)
"""The commands of an application, made once: typer makes all of them for every call, which takes longer than most."""


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Call]:
    """`outside(main, *first)`: what runs `first …` by `main`, in the test's own directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(typer.main, "get_command", _commands_of)

    def made(main: Callable[[], None], *first: str) -> Call:
        def run(*words: object) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "argv", [*first, *map(str, words)])
            with pytest.raises(SystemExit) as end:
                main()
            out, err = capsys.readouterr()
            return int(end.value.code or 0), out, err

        return run

    return made


@pytest.fixture
def call(outside: Callable[..., Call]) -> Call:
    """Run `postmortem …`: (exit code, stdout, stderr)."""
    return outside(cli.main, "postmortem")


def in_a_process(here: Path, *words: object, module: str = "postmortem", **variables: str) -> tuple[int, str, str]:
    """`postmortem words…` in a process of its own, started in the folder `here`: (exit code, stdout, stderr). `module`
    is run instead of the package."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def on_a_terminal(words: Sequence[str], environment: Mapping[str, str], *, errors: bool = True) -> str:
    """What `python words…` writes to a pseudo-terminal, its standard error too where it is asked for."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    err = theirs if errors else subprocess.DEVNULL
    unset = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS")
    clean = {key: value for key, value in os.environ.items() if key not in unset} | dict(environment)
    with subprocess.Popen([sys.executable, *words], cwd=ROOT, env=clean, stdout=theirs, stderr=err) as child:
        os.close(theirs)
        parts: list[bytes] = []
        try:
            while part := os.read(ours, 4096):
                parts.append(part)
        except OSError:  # Linux reports the closed end this way
            pass
        os.close(ours)
    assert child.returncode == 0
    return b"".join(parts).decode()
