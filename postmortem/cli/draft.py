"""`postmortem draft RUN`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postmortem.atomic import real_path
from postmortem.cli._lessons import LessonsOption, UndecidedOption, open_notebook
from postmortem.cli._options import AtOption, IncidentOption, MapOption, parse_map
from postmortem.cli._output import display_path, print_labeled, print_lines, print_location
from postmortem.cli._runs import NamedRunOption, log_paths, open_gravest
from postmortem.cli._terminal import encodes, stage, text_width
from postmortem.errors import CheckFailed, UsageError
from postmortem.text import plain

if TYPE_CHECKING:
    from postmortem.diagnosis import Diagnosis, Incident
    from postmortem.run import Run


class Mode(StrEnum):
    """Values of --mode."""

    all = "all"
    watchdog = "watchdog"


def draft(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN [MORE ...]",
            help="A run directory, a log file (also gzipped), or - for stdin; several are one run, in this order.",
        ),
    ],
    source: Annotated[
        str | None, typer.Option("--source", metavar="FORMAT", help="The format of RUN, if several are possible.")
    ] = None,
    columns: MapOption = None,
    of_log: NamedRunOption = None,
    mode: Annotated[
        Mode,
        typer.Option("--mode", help="Report any column's departure as an incident, or only a loss that stays up."),
    ] = Mode.all,
    ratio: Annotated[
        float | None,
        typer.Option("--ratio", metavar="R", help="Watchdog: how many times its baseline. [default: 1.25]"),
    ] = None,
    sustain: Annotated[
        int | None, typer.Option("--sustain", metavar="N", help="Watchdog: for how many rows. [default: 10]")
    ] = None,
    history: Annotated[
        int | None,
        typer.Option("--history", metavar="N", help="Watchdog: the baseline is the median of N rows. [default: 1000]"),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="OTHER", help="A sibling run: its loss on the same batch is evidence."),
    ] = None,
    incident: IncidentOption = None,
    at: AtOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the report goes [default: RUN/postmortem].")
    ] = None,
    lessons: LessonsOption = None,
    undecided: UndecidedOption = False,
    no_text: Annotated[
        bool, typer.Option("--no-text", help="Leave training text out of the report: it may be private.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the diagnosis as JSON; write only what --out and --lessons name."),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if there is an incident, or the run could not be judged.")
    ] = False,
) -> None:
    """Find what went wrong in a run, and draft its post-mortem.

    Writes report.md, diagnosis.json and panel pictures, and enters the lesson
    in lessons.md. A later draft replaces only what an earlier draft wrote, and
    keeps the section "Notes" and every line of lessons.md that you edited.

    \b
    Examples:
      postmortem draft runs/19-spike-001
      postmortem draft metrics.csv --map loss=train/loss,step=global_step
      postmortem draft train.log.2.gz train.log.1 train.log
      zcat old.jsonl.gz | grep loss | postmortem draft - --source jsonl
      postmortem draft runs/19-spike-001 --json --check > diagnosis.json
      postmortem draft runs/19-spike-001 --baseline runs/19-clean-001
      postmortem draft runs/exp7 --mode watchdog --ratio 2 --sustain 20
    """
    from postmortem import report
    from postmortem.detectors import watchdog_mode
    from postmortem.pipeline import diagnose
    from postmortem.sources import open_run

    mapping = parse_map(columns or [])
    paths = log_paths(logs)
    run = paths[0]
    try:
        search = watchdog_mode(mode.value, ratio=ratio, sustain=sustain, history=history)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    notebook = open_notebook(lessons, run, undecided=undecided, as_json=as_json)
    with stage(f"Reading {run}"):
        opened = open_gravest(paths, mapping, source, of_log, search)
    with stage("Looking for incidents"):
        sibling = None if baseline is None else open_run(log_paths([baseline]))
        asked = report.IncidentChoice(incident, at)
        diagnosis = diagnose(opened, text=not no_text, mode=search, baseline=sibling, asked=asked)
    number = report.select_id(diagnosis, number=incident, at=at)
    folder = out or (None if as_json else report.default_out(opened.path))
    written = None
    if folder:
        from postmortem.panels import draw_panel

        with stage("Drawing and writing the report"):
            within = None if out else report.run_folder(opened.path)
            written = report.write_report(diagnosis, folder, draw=draw_panel, incident=number, within=within)
            if within is not None and opened.root is not None:
                from postmortem.checkpoint.health import health_in

                health_in(opened).keep()
    entered = notebook is not None and notebook.enter(diagnosis, opened.path, number, written)
    if as_json:
        typer.echo(report.to_bytes(diagnosis), nl=False)
    else:
        width, unicode = text_width(sys.stdout), encodes(sys.stdout)
        print_lines(report.summarize(diagnosis, incident=number, width=width, unicode=unicode))
        typer.echo()
    if written:
        print_location("report", display_path(written), err=as_json)
    if notebook and entered:
        print_location("lesson", display_path(notebook.path), err=as_json)
    chosen = next((each for each in diagnosis.incidents if each.id == number), None)
    command = (
        "" if as_json or chosen is None else _next_command(run, opened, chosen, written, numbered=mode is Mode.all)
    )
    if command:
        print_location("next", command)
    if check:
        _check(diagnosis, as_json=as_json)


def _check(diagnosis: Diagnosis, *, as_json: bool) -> None:
    """Raise CheckFailed unless the run was judged and has no incident; say why where the summary does not."""
    if as_json and diagnosis.not_judged:
        print_labeled("check", plain(f"failed, not judged: {'; '.join(diagnosis.not_judged)}", 1000), err=True)
    if diagnosis.verdict != "no_incident":
        raise CheckFailed


def _next_command(path: Path, run: Run, incident: Incident, written: Path | None, *, numbered: bool) -> str:
    """The command that tests the leading cause of `incident`, or the remedy of a confirmed cause; "" if no replay can.
    `numbered`: other commands give the incidents the same numbers."""
    if run.root is None or not (run.root / "metrics").is_dir() or run.manifest.program is None:
        return ""
    if not numbered:
        return _watchdog_command(path, incident)
    option = "" if incident.id == 1 else f" --incident {incident.id}"
    if incident.verdict == "confirmed":
        beside = written is not None and real_path(written).parent == real_path(run.root / "postmortem")
        diagnosis = "" if written is None else display_path(written.parent / "diagnosis.json")
        return f"postmortem verify {diagnosis}{option}" if beside and incident.remedy else ""
    leading_cause_predicts = bool(incident.hypotheses and incident.hypotheses[0].predictions)
    any_change = any(p.changes for hypothesis in incident.hypotheses for p in hypothesis.predictions)
    proven = bool(incident.proof) and incident.verdict != "supported"  # or its replays are gone
    return (
        f"postmortem prove {display_path(path)}{option}" if leading_cause_predicts and any_change and not proven else ""
    )


def _watchdog_command(path: Path, incident: Incident) -> str:
    """The command that replays what the watchdog asks for; "" where no checkpoint is old enough."""
    rollback = incident.rollback
    if rollback is None or rollback.rollback_to_step is None:
        return ""
    attempt = f" --attempt {incident.attempt}" if incident.discarded else ""
    window = ":".join(map(str, rollback.skip))
    return f"postmortem replay {display_path(path)} --from-step {rollback.rollback_to_step} --skip {window}{attempt}"
