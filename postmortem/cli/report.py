"""`postmortem report diagnosis.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from postmortem.cli._options import AtOption, DiagnosisArgument, IncidentOption
from postmortem.cli._output import display_path, print_labeled, print_location
from postmortem.cli._terminal import stage


def report(
    diagnosis: DiagnosisArgument,
    incident: IncidentOption = None,
    at: AtOption = None,
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="What to print without --out.")] = "md",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the whole report here, with its pictures.")
    ] = None,
) -> None:
    """Render a report from its diagnosis.json.

    Prints it on stdout, or writes files with --out. Nothing else of the run is needed.

    \b
    Examples:
      postmortem report runs/19-spike-001/postmortem/diagnosis.json | less
      postmortem report diagnosis.json --incident 2 --out incident-2
    """
    from postmortem import report as rendering
    from postmortem.diagnosis import load

    loaded = load(diagnosis)
    if any(each.experiments or each.proof for each in loaded.incidents):
        print_labeled("note", "what replays showed is as the file says; `postmortem draft RUN` checks it", err=True)
    number = rendering.select_id(loaded, number=incident, at=at)
    text = rendering.render(loaded, incident=number, format=format)
    if out is None:
        typer.echo(text, nl=False)
        return
    from postmortem.panels import draw_panel

    with stage("Drawing and writing the report"):
        written = rendering.write_report(loaded, out, draw=draw_panel, incident=number)
    print_location("report", display_path(written))
