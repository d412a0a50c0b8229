"""`postmortem lab`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from postmortem.cli._options import shown
from postmortem.cli._terminal import progress


def lab(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run directory to write.")],
    fault: Annotated[
        str | None, typer.Option("--fault", metavar="FAULT", help="The fault to order [default: none, a clean run].")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the data, the weights and the order of batches.")] = 0,
    at: Annotated[int | None, typer.Option("--at", metavar="STEP", help="The step at which the fault strikes.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="How many steps to train.")] = None,
) -> None:
    """Train a small real model and record its run.

    With a fault ordered, or without one. Needs the extra [train]. The truth about the fault lies outside the run directory.

    \b
    Examples:
      postmortem lab --out runs/clean-7 --seed 7
      postmortem lab --fault long_tail_tokens --seed 42 --at 312 --out runs/spike-42
    """
    from postmortem.lab import make_run

    with progress("Training") as advance:
        make_run(out, fault=fault, seed=seed, at=at, steps=steps, on_progress=advance)
    typer.echo(f"run     {shown(out)}\nnext    postmortem draft {shown(out)}")
