"""`postmortem bisect RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postmortem.cli._options import (
    ArithmeticOption,
    FirstIncidentOption,
    JsonOption,
    ProgramOption,
    RunArgument,
    TrustOption,
    parse_window,
)
from postmortem.cli._output import display_path, print_json, print_labeled, print_location
from postmortem.cli._program import print_imports
from postmortem.cli._terminal import stage
from postmortem.errors import Interrupted, UsageError, require
from postmortem.text import plain

if TYPE_CHECKING:
    from postmortem.experiment.bisect import BatchSearch, Culprits
    from postmortem.experiment.target import ExperimentTarget


def bisect(
    run: RunArgument,
    window: Annotated[
        str | None,
        typer.Option("--window", metavar="A:B", help="Batches to search [default: 32 around the incident]."),
    ] = None,
    incident: FirstIncidentOption = None,
    rows: Annotated[bool, typer.Option("--rows/--no-rows", help="Search the rows of a single culprit, too.")] = True,
    program: ProgramOption = None,
    trust: TrustOption = False,
    arithmetic: ArithmeticOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the batches that cause the incident, and their rows.

    It finds the smallest set of batches whose removal cures the incident. One
    culprit among W batches takes at most log2(W) + 2 replays, each from a state
    saved just before the window.

    \b
    Examples:
      postmortem bisect runs/19-spike-001
      postmortem bisect runs/19-spike-001 --window 300:332 --no-rows
    """
    require("bisect", "train", "torch", "xxhash")
    from postmortem.experiment.bisect import BatchSearch
    from postmortem.experiment.target import find_target

    with stage(f"Reading {run}"):
        target = find_target(
            run, "bisect", incident=incident, program=program, trusted=trust, mode=arithmetic or "recorded"
        )
        search = BatchSearch(target, _window(target, window))
    print_imports(target.announced.notice)
    print_labeled("bits", target.arithmetic.text, err=as_json)
    culprits = _search(search, rows=rows, quiet=as_json)
    if as_json:
        print_json(culprits)
    else:
        _print(run, target, culprits)


def _window(target: ExperimentTarget, text: str | None) -> tuple[int, int]:
    from postmortem.experiment.bisect import default_window

    window = default_window(target) if text is None else parse_window("--window", text)
    earliest = target.recorded.batch_index_at(target.from_step)
    if window[0] < earliest:
        raise UsageError(
            f"--window {text}: the checkpoint at step {target.from_step} is after the batches before {earliest}; "
            f"search from {earliest} on"
        )
    latest = target.recorded.last_batch_index + 1
    if window[1] > latest:
        raise UsageError(f"--window {text}: the run consumed no batch from {latest} on; search up to {latest}")
    return window


def _search(search: BatchSearch, *, rows: bool, quiet: bool) -> Culprits:
    from postmortem.experiment.bisect import count_suspect_rows
    from postmortem.experiment.target import NULL

    try:
        with stage("Bisecting") as show_stage:

            def on_trial(name: str, text: str) -> None:
                show_stage("Null replay" if name == NULL else f"Driving a trial ({name})")
                if text and not quiet:
                    with show_stage.aside():
                        print_labeled("trial" if name != NULL else name, plain(text, 1000))

            search.on_trial = on_trial
            return search.find_culprits(count_suspect_rows(search.target) if rows else None)
    except KeyboardInterrupt as error:
        raise Interrupted(
            "interrupted. The same command continues with the trials that are not finished yet"
        ) from error


def _print(run: Path, target: ExperimentTarget, culprits: Culprits) -> None:
    typer.echo()
    print_labeled("found", culprits.text)
    first, last = culprits.window
    row_trials = f", {culprits.row_probes} for their rows" if culprits.row_probes else ""
    steps = f"{culprits.steps} steps, {culprits.naive_steps} if every trial had started from the checkpoint"
    print_labeled("cost", f"{culprits.probes} trials for {last - first} batches{row_trials}; {steps}")
    skip = ",".join(f"{batch}:{batch + 1}" for batch in culprits.batches)
    print_location("next", f"postmortem replay {display_path(run)} --skip {skip}{target.options}")
