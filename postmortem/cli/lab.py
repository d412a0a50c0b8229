"""`postmortem lab`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from postmortem.cli._output import display_path, print_location, print_table
from postmortem.cli._terminal import progress


def _list_faults(requested: bool) -> None:
    if requested:
        from postmortem.lab import list_faults

        print_table(list(list_faults().items()))
        raise typer.Exit


def lab(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run directory to write.")],
    fault: Annotated[str, typer.Option("--fault", metavar="FAULT", help="The fault to make; see --list.")] = "none",
    at: Annotated[
        int | None, typer.Option("--at", metavar="STEP", help="The step of the fault [default: the seed decides].")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the data, the weights and the order of batches.")] = 0,
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="How many steps to train.")] = 2000,
    listed: Annotated[
        bool, typer.Option("--list", callback=_list_faults, is_eager=True, help="List the faults and exit.")
    ] = False,
) -> None:
    """Train a small real model and record its run.

    The run has a fault or none. The truth about the fault is written beside the
    run directory, not into it. Needs the extra [train].

    \b
    Examples:
      postmortem lab --out runs/clean-7 --seed 7
      postmortem lab --fault lr_discontinuity --seed 42 --out runs/spike-42
    """
    from postmortem.lab import make_run

    with progress("Training") as advance:
        make_run(out, fault=fault, seed=seed, at=at, steps=steps, on_progress=advance)
    print_location("run", display_path(out))
    print_location("next", f"postmortem draft {display_path(out)}")
