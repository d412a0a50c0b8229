"""Commands that are called without typer get what typer would give them, and typer has all other words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import typer

from postmortem.cli import _direct, convert, draft, runs_diff
from tests.cli.conftest import Call, in_a_process

COMMANDS = {"draft": draft.draft, "diff": runs_diff.diff, "convert": convert.convert}
PLAIN = [
    "draft run",
    "draft - --json",
    "draft a b c --map loss=x --map step=y --check",
    "draft run --mode watchdog --ratio 2 --sustain 20 --history 100 --out there --baseline other",
    "draft run --mode=watchdog --ratio=1.5 --at 12 --incident 3 --run name --source csv --lessons l.md --no-text",
    "diff a b",
    "diff a b c --all --map 2:loss=x --run r --run s --json --exit-code --out o",
    "convert a run",
    "convert a b c run --source csv --map loss=x --run r",
]
OTHER = [
    "draft",
    "draft --help",
    "draft -h",
    "draft run --mode other",
    "draft run --ratio many",
    "draft run --incident 1.5",
    "draft run --incident -1",
    "draft run --at",
    "draft run --out --json",
    "draft run --json=yes",
    "draft run --jso",
    "draft run --unknown",
    "draft run --out a --out b",
    "draft -- run",
    "convert run",
    "diff",
]


def _given(command: Callable[..., Any], words: str) -> dict[str, object]:
    """What typer gives to a command for these words."""
    given: dict[str, object] = {}

    @wraps(command)
    def record(**values: object) -> None:
        given.update(values)

    app = typer.Typer()
    app.command()(record)
    typer.main.get_command(app)(words.split()[1:], standalone_mode=False)
    return given


@pytest.mark.parametrize("words", PLAIN)
def test_plain_words_give_what_typer_gives(words: str) -> None:
    name, *rest = words.split()
    values = _direct._values(COMMANDS[name], rest)
    given = _given(COMMANDS[name], words)
    assert {key: value or None for key, value in values.items()} == {key: v or None for key, v in given.items()}
    assert {k: type(v) for k, v in values.items() if v} == {k: type(v) for k, v in given.items() if v}


@pytest.mark.parametrize("words", OTHER)
def test_all_else_is_left_to_typer(words: str) -> None:
    name, *rest = words.split()
    assert _direct.direct_call(COMMANDS[name], rest) is None


def test_a_command_that_typer_knows_too_little_of() -> None:
    assert _direct.direct_call(lambda x: None, ["x"]) is None


def test_an_exit_code_is_kept() -> None:
    def leave() -> None:
        raise typer.Exit(3)

    call = _direct.direct_call(leave, [])
    assert call is not None and call() == 3


@pytest.mark.parametrize("words", ["draft --help", "draft x.csv --ratio many", "draft", "nothing", "--version"])
def test_help_and_mistakes_are_as_with_all_commands(
    words: str, call: Call, outside: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    from postmortem import cli

    alone = call(*words.split())
    monkeypatch.setattr(cli, "_run", lambda _: cli.app(prog_name="postmortem", standalone_mode=False))
    assert call(*words.split()) == alone


@pytest.mark.processes
def test_a_short_log_needs_neither_arrow_nor_pandas_nor_pydantic(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,loss\n" + "".join(f"{i},{2 - i / 900}\n" for i in range(500)))
    code = (
        f"import sys\nsys.argv = ['postmortem', 'draft', 'log.csv', '--json']\nsys.path.insert(0, {sys.path[0]!r})\n"
        "from postmortem.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'pyarrow', 'pandas', 'pydantic', 'matplotlib', "
        "'jinja2', 'rich', 'yaml', 'torch'}), file=sys.stderr)\n"
    )
    (tmp_path / "imports.py").write_text(code)
    assert in_a_process(tmp_path, module="imports")[2] == "[]\n"
