"""`postmortem convert LOG RUN_DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from postmortem.cli._options import MapOption, parse_map
from postmortem.cli._output import display_path, print_labeled, print_location
from postmortem.cli._runs import log_paths
from postmortem.cli._terminal import stage
from postmortem.text import count, plain, row_range


def convert(
    logs: Annotated[
        list[Path],
        typer.Argument(metavar="LOG [MORE ...]", help="A log as draft reads it; several are one run, in this order."),
    ],
    out: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run directory to write: a new folder.")],
    source: Annotated[
        str | None, typer.Option("--source", metavar="FORMAT", help="The format of LOG, if several are possible.")
    ] = None,
    columns: MapOption = None,
    of_log: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="Which run of a log that contains several.")
    ] = None,
) -> None:
    """Write a log as a run directory.

    Its rows become Parquet, with every column and every attempt; run.json says
    what the columns mean. A draft of RUN_DIR gives the diagnosis of LOG. The
    checkpoints of a folder are not copied.

    \b
    Examples:
      postmortem convert metrics.csv runs/exp7 --map loss=train/loss
      postmortem convert train.log.1.gz train.log runs/exp7
    """
    from postmortem.run.directory import write_directory
    from postmortem.sources import open_run

    with stage(f"Reading {logs[0]}"):
        run = open_run(log_paths(logs), parse_map(columns or []), source, run=of_log)
    with stage(f"Writing {out}"):
        write_directory(run, out)
    for note in run.notes:
        print_labeled("note", plain(note, 1000), err=True)
    unknown = f", and {count(len(run.other_columns), 'other')}" if run.other_columns else ""
    known = count(len(run.columns), "known column")
    print_labeled("read", f"{plain(run.source)}: {row_range(run.steps())}, {known}{unknown}")
    print_location("run", display_path(out))
    print_location("next", f"postmortem draft {display_path(out)}")
