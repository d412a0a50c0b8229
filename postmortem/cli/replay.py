"""`postmortem replay RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postmortem.cli._options import (
    ArithmeticOption,
    AttemptOption,
    ChangeOption,
    IncidentOption,
    JsonOption,
    ProgramOption,
    TrustOption,
    moved,
    parse_indices,
)
from postmortem.cli._replaying import drive_replay
from postmortem.cli.run_job import run_job

if TYPE_CHECKING:
    from postmortem.change import Change


def replay(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="A run directory that a recorder wrote.")] = None,
    from_step: Annotated[
        int | None,
        typer.Option("--from-step", metavar="N", help="Start from the checkpoint of step N; 0 is from scratch."),
    ] = None,
    until: Annotated[int | None, typer.Option("--until", metavar="M", help="Drive the steps before M.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="PATH", help="Start from this one, a path within the run.")
    ] = None,
    attempt: AttemptOption = None,
    incident: IncidentOption = None,
    skip: Annotated[
        str | None, typer.Option("--skip", metavar="A:B[,C:D]", help="Batches [A, B) to skip; 'none' changes nothing.")
    ] = None,
    change: ChangeOption = None,
    null: Annotated[bool, typer.Option("--null", help="Change nothing: does the run reproduce itself?")] = False,
    save_at: Annotated[
        str | None, typer.Option("--save-at", metavar="N,...", help="Steps whose state is saved in the new run.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The new run [default: RUN/postmortem/replays/<what is changed>]."),
    ] = None,
    program: ProgramOption = None,
    trust: TrustOption = False,
    arithmetic: ArithmeticOption = None,
    as_json: JsonOption = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Exit with 5 if a null replay should equal the run bit for bit but does not."),
    ] = False,
    job: Annotated[Path | None, typer.Option("--order", hidden=True)] = None,  # in jobs exported by earlier versions
    probe: Annotated[str | None, moved("--probe", "postmortem probe RUN A:B")] = None,
    probe_at: Annotated[str | None, moved("--at-checkpoints", "postmortem probe RUN A:B --at N,...")] = None,
    listed: Annotated[bool, moved("--list", "postmortem interventions")] = False,
) -> None:
    """Drive a run again from a checkpoint, changed or unchanged.

    What the options leave open comes from the diagnosis: the newest healthy
    checkpoint before the incident, the suspect batches as skip window, and as
    many steps as its verification needs. The result is a new run; the run
    itself is only read. Its program is code: a program that is not part of this
    package needs --trust or --program.

    \b
    Examples:
      postmortem replay runs/19-spike-001
      postmortem replay runs/19-spike-001 --null --check
      postmortem replay RUN --from-step 300 --change lr-scale=0.5 --until 400
      torchrun --nproc-per-node 2 -m postmortem replay runs/sharded --trust
    """
    from postmortem.errors import UsageError, require
    from postmortem.replay.request import ReplayRequest, adopt_arithmetic, plan

    if job is not None:
        if check or (run, from_step, skip, until, change, checkpoint, save_at, out) != (None,) * 8:
            raise UsageError("a job says by itself what to replay: postmortem run-job FILE")
        run_job(job, program, trust, arithmetic, as_json)
        return
    if run is None:
        raise UsageError("name the run to replay: postmortem replay RUN")
    require("replay", "train", "torch", "xxhash")
    request = ReplayRequest(
        run=run,
        from_step=from_step,
        until=until,
        changes=_changes(skip, change or [], null),
        incident=incident,
        attempt=attempt,
        checkpoint=checkpoint,
        save_at=parse_indices("--save-at", save_at),
        program=program,
        trusted=trust,
        out=out,
        arithmetic=arithmetic or "recorded",
    )
    adopt_arithmetic(run, None, arithmetic)  # before the ranks join: that imports torch
    drive_replay(lambda runs: plan(request, runs), keep_outcome=True, as_json=as_json, check=check)


def _changes(skip: str | None, change: list[str], null: bool) -> tuple[Change, ...] | None:
    """The changes that the options ask for; None if they leave that to the diagnosis."""
    from postmortem.errors import UsageError
    from postmortem.interventions import parse_change

    nothing = null or skip == "none"
    texts = [*([f"skip={skip}"] if skip and skip != "none" else []), *change]
    if nothing and texts:
        raise UsageError(f"a null replay changes nothing, and {texts[0]} is a change: leave one of them out")
    try:
        return tuple(map(parse_change, texts)) if nothing or texts else None
    except UsageError as error:  # whoever typed --skip reads about --skip
        raise UsageError(str(error).replace("skip=", "--skip ") if skip else str(error)) from error
