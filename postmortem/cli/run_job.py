"""`postmortem run-job FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from postmortem.cli._options import ArithmeticOption, JsonOption, ProgramOption, TrustOption
from postmortem.cli._replaying import drive_replay


def run_job(
    job: Annotated[Path, typer.Argument(metavar="FILE", help="A job that prove --export wrote.")],
    program: ProgramOption = None,
    trust: TrustOption = False,
    arithmetic: ArithmeticOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run one job of an exported experiment: a single replay.

    The file says what to replay, what to change and where the result goes. It
    comes from elsewhere, so it cannot trust its program by itself: --trust or
    --program does.

    \b
    Examples:
      postmortem run-job jobs/R0.json --trust --json
      torchrun --nproc-per-node 2 -m postmortem run-job jobs/R0.json --trust
    """
    from postmortem.errors import require
    from postmortem.replay.request import adopt_arithmetic, plan_from_file

    require("run-job", "train", "torch", "xxhash")
    adopt_arithmetic(Path(), job, arithmetic)  # before the ranks join: that imports torch
    drive_replay(
        lambda runs: plan_from_file(job, program, arithmetic, trusted=trust, runs=runs),
        keep_outcome=False,
        as_json=as_json,
    )
