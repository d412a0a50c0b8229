"""`postmortem bisect RUN`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from postmortem.cli._listing import tell
from postmortem.cli._options import ArithmeticOption, parse_window, shown
from postmortem.cli._program import Interrupted
from postmortem.cli._terminal import stage
from postmortem.text import plain


def bisect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory that a recorder wrote.")],
    window: Annotated[
        str | None,
        typer.Option("--window", metavar="A:B", help="Batches to search [default: 32 around the incident]."),
    ] = None,
    incident: Annotated[
        int | None, typer.Option("--incident", metavar="N", help="Search for incident N, not what led to the worst.")
    ] = None,
    rows: Annotated[bool, typer.Option("--rows/--no-rows", help="Search the rows of a single culprit, too.")] = True,
    program: Annotated[
        str | None, typer.Option("--program", metavar="MODULE:FACTORY", help="Drive this instead of the run's own.")
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Import and run the program that the run names.")] = False,
    arithmetic: ArithmeticOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find the smallest set of batches whose removal cures the incident, then the rows within them.

    One culprit among W batches takes at most log2(W) + 2 replays, each from a state saved just before the window.

    \b
    Examples:
      postmortem bisect runs/19-spike-001
      postmortem bisect runs/19-spike-001 --window 300:332 --no-rows
    """
    from postmortem.errors import UsageError, require
    from postmortem.experiment.bisect import BatchSearch, default_window, rows_of
    from postmortem.experiment.target import NULL, find_target

    require("bisect", "train", "torch", "xxhash")
    with stage(f"Reading {run}"):
        about = find_target(
            run, "bisect", incident=incident, program=program, trusted=trust, mode=arithmetic or "recorded"
        )
        searched = default_window(about) if window is None else parse_window("--window", window)
    earliest = about.recorded.index_at(about.from_step)
    if searched[0] < earliest:
        raise UsageError(
            f"--window {window}: the checkpoint at step {about.from_step} has batches before {earliest} behind it; "
            f"search from {earliest} on"
        )
    latest = about.recorded.last_index + 1
    if searched[1] > latest:
        raise UsageError(f"--window {window}: the run consumed no batch from {latest} on; search up to {latest}")
    if about.imports:
        tell("imports", about.imports, err=True)
    tell("bits", about.arithmetic.text, err=as_json)
    search = BatchSearch(about, searched)
    try:
        with stage("Bisecting") as say:

            def heard(name: str, text: str) -> None:
                say(f"Driving {name}")
                if text and not as_json:
                    with say.aside():
                        tell("probe" if name != NULL else name, plain(text, 1000))

            search.on_probe = heard
            found = search.find(rows_of(about) if rows else None)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted. The same command goes on with the probes that are not done yet") from error
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
        return
    first, last = found.window
    typer.echo()
    tell("found", found.text)
    rows_too = f", {found.row_probes} for their rows" if found.row_probes else ""
    steps = f"{found.steps} steps, {found.naive_steps} had each begun at the checkpoint"
    tell("cost", f"{found.probes} probes for {last - first} batches{rows_too}; {steps}")
    skip = ",".join(f"{batch}:{batch + 1}" for batch in found.batches)
    tell("next", f"postmortem replay {shown(run)} --skip {skip}{about.options}")
