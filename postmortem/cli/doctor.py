"""`postmortem doctor RUN`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postmortem.cli._options import JsonOption
from postmortem.cli._output import print_json, print_lines
from postmortem.cli._terminal import reading, stage, text_width
from postmortem.errors import CheckFailed
from postmortem.terminal_layout import Line, Span, wrap
from postmortem.text import plain

if TYPE_CHECKING:
    from postmortem.checkpoint.readiness import Readiness

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_STATE = 6  # columns of a check's state and the space behind it


def doctor(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    as_json: JsonOption = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if the run could not be rolled back.")] = False,
) -> None:
    """Could this run be rolled back if it spiked now?

    Checks each thing that a rollback needs, and names the fix for what is missing.

    \b
    Examples:
      postmortem doctor runs/exp7
      postmortem doctor runs/exp7 --check || echo "no way back"
    """
    from postmortem.checkpoint.readiness import check_readiness
    from postmortem.sources import open_run

    with stage(f"Reading {run}"):
        opened = open_run(run)
    with reading("Reading the newest checkpoint") as advance:
        readiness = check_readiness(opened, advance)
    if as_json:
        print_json({**asdict(readiness), "ready": readiness.ready, "verdict": readiness.verdict})
    else:
        print_lines(_lines(readiness, text_width(sys.stdout)))
    if check and not readiness.ready:
        raise CheckFailed


def _lines(readiness: Readiness, width: int | None) -> list[Line]:
    question = f"{plain(readiness.run)}: could it be rolled back now? {readiness.verdict}"
    lines: list[Line] = [*wrap((Span(question, "bold"),), width), ()]
    for check in readiness.checks:
        state = Span(f"{check.state:<{_STATE}}", _STYLES[check.state])
        lines += wrap(f"{check.name}: {check.figure}", width, head=(state,))
        if check.fix and check.state != "ok":
            lines += wrap((Span(f"fix: {check.fix}", "dim"),), width, head=(Span(" " * _STATE),))
    return lines
