"""The command line: one thin file per command."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import typer

from postmortem.cli._app import new_app
from postmortem.cli._direct import direct_call
from postmortem.cli._guard import explained, guarded
from postmortem.version import __version__

_DIAGNOSING = ("draft", "report", "verify", "explain", "diff", "convert")
_DRIVING = ("replay", "interventions", "probe", "prove", "run-job", "bisect", "test-resume", "lab")
_CHECKPOINTS = ("checkpoints", "plan", "doctor")
_COMMANDS = (*_DIAGNOSING, *_DRIVING, *_CHECKPOINTS)
_DIRECT = ("draft", "diff", "convert")  # the commands on logs, which a person waits for
_MODULES = {"diff": "runs_diff"}  # where a module has another name than its command


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"postmortem {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Diagnose a training run that went wrong.

    \b
    Example:
      postmortem draft runs/19-spike-001
    """


def _command(name: str) -> Callable[..., object]:
    """The function of a command, which lies in a module of its own."""
    function = name.replace("-", "_")
    return explained(getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, function)}"), function))


def _app_of(commands: Iterable[str]) -> typer.Typer:
    """An application with these commands."""
    made = new_app("postmortem", no_args_is_help=True)
    made.callback()(root)
    for name in commands:
        made.command()(_command(name))
    return made


def __getattr__(name: str) -> typer.Typer:
    """`app`, the application with all commands, is made when it is asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, _app_of(_COMMANDS))


def _run(words: Sequence[str]) -> int | None:
    """Run the command that the words name: directly where they are plain, else by typer. All commands are made only
    where help or a mistake is about them."""
    named = [*words[:1]] if words and words[0] in _COMMANDS else []
    if named and words[0] in _DIRECT and (call := direct_call(_command(words[0]), words[1:])) is not None:
        return call()
    return _app_of(named or _COMMANDS)(prog_name="postmortem", standalone_mode=False)


def main() -> None:
    """The `postmortem` command."""
    guarded(lambda: _run(sys.argv[1:]))
