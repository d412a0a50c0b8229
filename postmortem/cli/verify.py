"""`postmortem verify DIAGNOSIS --against RUN`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from postmortem.cli._options import parse_map
from postmortem.cli._terminal import stage
from postmortem.text import number, plain


def verify(
    diagnosis: Annotated[Path, typer.Argument(metavar="DIAGNOSIS", help="A diagnosis.json that a draft wrote.")],
    against: Annotated[Path, typer.Option("--against", metavar="RUN", help="The run with the fix in it.")],
    incident: Annotated[
        int | None, typer.Option("--incident", metavar="N", help="Verify incident N instead of the worst.")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="NAME=COLUMN,...", help="Which column of RUN is which.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Hold a fixed run against section 6 of a post-mortem: each expected figure with the one measured.

    Exits with 0 if every figure holds, with 1 if one does not or was not logged.

    \b
    Example:
      postmortem verify runs/19-spike-001/postmortem/diagnosis.json --against runs/19-spike-002
    """
    from postmortem import report
    from postmortem.assess.verification import verify as measure
    from postmortem.diagnosis import load
    from postmortem.errors import UsageError
    from postmortem.sources import open_run

    loaded = load(diagnosis)
    chosen = report.select(loaded, number=incident, at=None)
    known = next((one for one in loaded.incidents if one.id == chosen), None)
    if known is None or known.verification is None:
        raise UsageError(f"{plain(diagnosis)}: holds no incident to verify.")
    with stage(f"Reading {against}"):
        run = open_run(against, parse_map(columns or []))
        results = measure(known.verification, known.onset_step, run)
    passed = all(result.passed for result in results)
    if as_json:
        rows = [asdict(r) for r in results]
        for row in rows:  # strict JSON has no NaN and no infinity
            if row["measured"] is not None and not math.isfinite(row["measured"]):
                row["measured"] = number(row["measured"])
        typer.echo(json.dumps({"passed": passed, "results": rows}, indent=1))
    else:
        for result in results:
            measured = "not logged" if result.measured is None else number(result.measured)
            typer.echo(f"{'pass' if result.passed else 'FAIL'}  {plain(result.text)}: {measured}")
    if not passed:
        raise typer.Exit(1)
