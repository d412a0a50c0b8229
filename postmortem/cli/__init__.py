"""The command line: one thin file per command."""

from __future__ import annotations

from typing import Annotated

import typer

from postmortem.cli._app import new_app
from postmortem.cli._guard import explained, guarded
from postmortem.cli.bisect import bisect
from postmortem.cli.checkpoints import checkpoints
from postmortem.cli.convert import convert
from postmortem.cli.doctor import doctor
from postmortem.cli.draft import draft
from postmortem.cli.explain import explain
from postmortem.cli.interventions import interventions
from postmortem.cli.lab import lab
from postmortem.cli.plan import plan
from postmortem.cli.probe import probe
from postmortem.cli.prove import prove
from postmortem.cli.replay import replay
from postmortem.cli.report import report
from postmortem.cli.run_job import run_job
from postmortem.cli.runs_diff import diff
from postmortem.cli.test_resume import test_resume
from postmortem.cli.verify import verify
from postmortem.version import __version__

app = new_app("postmortem", no_args_is_help=True)
_DIAGNOSING = (draft, report, verify, explain, diff, convert)
_DRIVING = (replay, interventions, probe, prove, run_job, bisect, test_resume, lab)
_CHECKPOINTS = (checkpoints, plan, doctor)
for command in (*_DIAGNOSING, *_DRIVING, *_CHECKPOINTS):
    app.command()(explained(command))


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"postmortem {__version__}")
        raise typer.Exit


@app.callback()
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


def main() -> None:
    """The `postmortem` command."""
    guarded(lambda: app(prog_name="postmortem", standalone_mode=False))
