"""`postmortem lab`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from postmortem.cli._options import shown
from postmortem.cli._terminal import progress


def _list(wanted: bool) -> None:
    if wanted:
        from postmortem.lab import list_faults

        faults = list_faults()
        widest = max(map(len, faults))
        for slug, title in faults.items():
            typer.echo(f"{slug:<{widest}}  {title}")
        raise typer.Exit


def lab(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run directory to write.")],
    fault: Annotated[str, typer.Option("--fault", metavar="FAULT", help="The fault to order.")] = "none",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the data, the weights and the order of batches.")] = 0,
    at: Annotated[
        int | None, typer.Option("--at", metavar="STEP", help="Where the fault strikes [default: the seed decides].")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="How many steps to train.")] = 2000,
    listed: Annotated[
        bool, typer.Option("--list", callback=_list, is_eager=True, help="List the faults and exit.")
    ] = False,
) -> None:
    """Train a small real model and record its run.

    With a fault ordered, or without one. Needs the extra [train]. The truth about the fault is written beside the run
    directory, not into it.

    \b
    Examples:
      postmortem lab --out runs/clean-7 --seed 7
      postmortem lab --fault long_tail_tokens --seed 42 --at 312 --out runs/spike-42
    """
    from postmortem.lab import make_run

    with progress("Training") as advance:
        make_run(out, fault=fault, seed=seed, at=at, steps=steps, on_progress=advance)
    typer.echo(f"run     {shown(out)}\nnext    postmortem draft {shown(out)}")
