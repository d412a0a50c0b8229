"""`postmortem draft RUN`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from postmortem.cli._options import parse_map, shown
from postmortem.cli._terminal import encodes, show, stage, width

LESSONS = Path("lessons.md")


class Mode(StrEnum):
    """Values of --mode."""

    all = "all"
    watchdog = "watchdog"


def draft(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, a log file, or a trainer_state.json.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the report goes [default: RUN/postmortem].")
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the diagnosis as JSON; write nothing but what --out and --lessons name."),
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if there is an incident.")] = False,
    lessons: Annotated[
        Path | None, typer.Option("--lessons", metavar="PATH", help="Append the lesson here [default: ./lessons.md].")
    ] = None,
    at: Annotated[int | None, typer.Option("--at", metavar="STEP", help="Report on the incident at this step.")] = None,
    incident: Annotated[
        int | None, typer.Option("--incident", metavar="N", help="Report on incident N instead of the worst.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="NAME=COLUMN,...", help="Which column of the log is which, where names are unusual."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="FORMAT", help="The format of RUN, where several might be meant.")
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option("--mode", help="What counts as an incident: any panel's departure, or a loss that is held up."),
    ] = Mode.all,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="OTHER", help="A sibling run: what it made of the same batch is evidence."),
    ] = None,
    no_text: Annotated[
        bool, typer.Option("--no-text", help="Leave training text out of the report: private data.")
    ] = False,
) -> None:
    """Read a run, find what went wrong, and draft its post-mortem.

    Writes report.md, diagnosis.json and panel pictures, and appends the lesson to lessons.md. A later draft replaces
    only what an earlier one wrote, and keeps the section "Notes".

    \b
    Examples:
      postmortem draft runs/19-spike-001
      postmortem draft metrics.csv --map loss=train/loss,step=global_step
      postmortem draft runs/19-spike-001 --json --check > diagnosis.json
      postmortem draft runs/19-spike-001 --baseline runs/19-clean-001
    """
    from postmortem import report
    from postmortem.panels import draw_panel
    from postmortem.pipeline import diagnose
    from postmortem.sources import open_run

    mapping = parse_map(columns or [])
    book = lessons or (None if as_json else LESSONS)
    if book:
        report.check_lessons(book)
    with stage(f"Reading {run}"):
        opened = open_run(run, mapping, source)
    with stage("Looking for incidents"):
        sibling = None if baseline is None else open_run(baseline)
        diagnosis = diagnose(opened, text=not no_text, mode=mode.value, baseline=sibling)
    number = report.select(diagnosis, number=incident, at=at)
    place = out or (None if as_json else report.default_out(opened.path))
    written = None
    if place:
        with stage("Drawing and writing the report"):
            written = report.write_report(diagnosis, place, draw=draw_panel, incident=number)
    added = book is not None and report.add_lesson(diagnosis, book, incident=number, report=written)
    if as_json:
        typer.echo(report.to_bytes(diagnosis), nl=False)
    else:
        show(report.summarize(diagnosis, incident=number, width=width(sys.stdout), unicode=encodes(sys.stdout)))
        typer.echo()
    if written:
        typer.echo(f"report  {shown(written)}", err=as_json)
    if book and added:
        typer.echo(f"lesson  {shown(book)}", err=as_json)
    if check and diagnosis.incidents:
        raise typer.Exit(1)
