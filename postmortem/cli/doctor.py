"""`postmortem doctor RUN`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from postmortem.cli._listing import reading, room, wrapped
from postmortem.cli._terminal import show, stage
from postmortem.text import plain

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if the run could not be rolled back.")] = False,
) -> None:
    """Could this run be rolled back if it spiked now? Each thing that a rollback needs, with the fix.

    \b
    Example:
      postmortem doctor runs/exp7
    """
    from postmortem.checkpoint.readiness import examine
    from postmortem.report.summary import Line, Span
    from postmortem.sources import open_run

    with stage(f"Reading {run}"):
        opened = open_run(run)
    with reading("Reading the newest checkpoint") as advance:
        found = examine(opened, advance)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"ready": found.ready, "verdict": found.verdict}, indent=1))
    else:
        space = room(sys.stdout)
        verdict = wrapped(f"{plain(found.run)}: could it be rolled back now? {found.verdict}", space, "")
        lines: list[Line] = [*((Span(text, "bold"),) for text in verdict), ()]
        for one in found.checks:
            first, *rest = wrapped(f"{one.name}: {one.figure}", space, "      ")
            lines.append((Span(f"{one.state:<6}", _STYLES[one.state]), Span(first[6:])))
            lines += [(Span(text),) for text in rest]
            if one.fix and one.state != "ok":
                lines += [(Span(text, "dim"),) for text in wrapped(f"fix: {one.fix}", space, "      ")]
        show(lines)
    if check and not found.ready:
        raise typer.Exit(1)
