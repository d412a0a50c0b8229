"""`postmortem replay RUN`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postmortem.cli._listing import tell
from postmortem.cli._options import ArithmeticOption, parse_indices, parse_window, shown
from postmortem.cli._program import Interrupted, notes
from postmortem.cli._redraft import redraft
from postmortem.cli._terminal import encodes, progress, show, stage, width
from postmortem.text import plain

if TYPE_CHECKING:
    from postmortem.change import Change
    from postmortem.pipeline import OpenRuns
    from postmortem.replay.distributed import Speaker
    from postmortem.replay.request import ReplayPlan
    from postmortem.replay.result import ReplayResult

NOT_REPRODUCED = 5


def _list(wanted: bool) -> None:
    if wanted:
        from postmortem.interventions import interventions

        usages = {_usage(name, one.usage): one.about for name, one in interventions().items()}
        widest = max(map(len, usages))
        for usage, about in sorted(usages.items()):
            typer.echo(f"{usage:<{widest}}  {about}")
        raise typer.Exit


def _usage(name: str, value: str) -> str:
    """NAME=VALUE; a value in brackets may be left out."""
    return f"{name}[={value[1:]}" if value.startswith("[") else f"{name}={value}"


def replay(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="A run directory that a recorder wrote.")] = None,
    from_step: Annotated[
        int | None,
        typer.Option("--from-step", metavar="N", help="Start from the checkpoint of step N; 0 is from scratch."),
    ] = None,
    skip: Annotated[
        str | None,
        typer.Option("--skip", metavar="A:B[,C:D]", help="Batches [A, B) to pass over; none changes nothing."),
    ] = None,
    until: Annotated[int | None, typer.Option("--until", metavar="M", help="Drive the steps before M.")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--change", metavar="NAME=VALUE", help="Another change, as often as wanted; see --list."),
    ] = None,
    null: Annotated[bool, typer.Option("--null", help="Change nothing: does the run reproduce itself?")] = False,
    incident: Annotated[
        int | None, typer.Option("--incident", metavar="N", help="Replay incident N instead of the worst.")
    ] = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", metavar="K", help="Follow the run as attempt K saw it, discarded or not.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="PATH", help="Start from this one, a path within the run.")
    ] = None,
    save_at: Annotated[
        str | None, typer.Option("--save-at", metavar="N,...", help="Steps whose state is saved in the new run.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The new run [default: RUN/postmortem/replays/<what is changed>]."),
    ] = None,
    program: Annotated[
        str | None, typer.Option("--program", metavar="MODULE:FACTORY", help="Drive this instead of the run's own.")
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Import and run the program that the run names.")] = False,
    arithmetic: ArithmeticOption = None,
    probe: Annotated[
        str | None,
        typer.Option("--probe", metavar="A:B", help="Train nothing: loss and gradient of batches by checkpoint."),
    ] = None,
    at_checkpoints: Annotated[
        str | None,
        typer.Option("--at-checkpoints", metavar="N,...", help="Probe at these [default: the five nearest]."),
    ] = None,
    spec: Annotated[
        Path | None, typer.Option("--order", metavar="FILE", help="Carry out the order in FILE (see prove --export).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 5 where a null replay is not the run bit for bit, and should be.")
    ] = False,
    listed: Annotated[
        bool, typer.Option("--list", callback=_list, is_eager=True, help="List the changes there are, and exit.")
    ] = False,
) -> None:
    """Drive a run again from a checkpoint, with something changed or with nothing.

    What is left open comes from the diagnosis: the newest healthy checkpoint before the incident, the suspect batches
    as skip window, and as many steps as its verification asks for. The result is a new run. The run itself is only
    read. Its program is code: one that is not this package's own needs --trust or --program.

    \b
    Examples:
      postmortem replay runs/19-spike-001
      postmortem replay runs/19-spike-001 --null --check
      postmortem replay runs/19-spike-001 --from-step 300 --change lr-scale=0.5 --until 400
      postmortem replay runs/19-spike-001 --probe 305:320
      torchrun --nproc-per-node 2 -m postmortem replay runs/sharded --trust
    """
    from postmortem.errors import UsageError, require
    from postmortem.pipeline import OpenRuns
    from postmortem.replay.distributed import joined
    from postmortem.replay.request import ReplayRequest, adopt_arithmetic, plan, plan_of

    if (run is None) == (spec is None):
        raise UsageError("say which run to replay, or which order to carry out: RUN or --order FILE")
    if spec is not None and (from_step, skip, until, change, checkpoint, save_at, out, probe) != (None,) * 8:
        raise UsageError("an order says by itself what is done: beside --order only --program, --trust, --arithmetic")
    require("replay", "train", "torch", "xxhash")
    asked = ReplayRequest(
        run=run or Path(),
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
    adopt_arithmetic(asked.run, spec, arithmetic)  # the ranks join by torch
    runs = OpenRuns()
    with joined() as ranks:
        if probe is not None:
            from postmortem.cli._probing import run_probe

            states = parse_indices("--at-checkpoints", at_checkpoints)
            return run_probe(asked, parse_window("--probe", probe), states, ranks, as_json=as_json)
        planned = ranks.first_says(
            lambda: plan(asked, runs) if spec is None else plan_of(spec, program, arithmetic, trusted=trust, runs=runs)
        )
        result = _carry_out(planned, runs, ranks, quiet=as_json)
        if ranks.first:
            outcome = "" if spec is not None else _attached(planned, runs, result)
            _tell(planned, runs, result, outcome, as_json=as_json)
    if check and not planned.spec.changes and not result.exact and not result.arithmetic:
        raise typer.Exit(NOT_REPRODUCED)


def _changes(skip: str | None, change: list[str], null: bool) -> tuple[Change, ...] | None:
    """The changes that are asked for; None where that is left to the diagnosis."""
    from postmortem.errors import UsageError
    from postmortem.interventions import parse_change

    nothing = null or skip == "none"
    texts = [*([f"skip={skip}"] if skip and skip != "none" else []), *change]
    if nothing and texts:
        raise UsageError(f"a null replay changes nothing, and {texts[0]} is a change: leave one of them out")
    return tuple(map(parse_change, texts)) if nothing or texts else None


def _carry_out(planned: ReplayPlan, runs: OpenRuns, ranks: Speaker, *, quiet: bool) -> ReplayResult:
    spec = planned.spec
    if not ranks.first:
        from postmortem.replay.run_replay import replay

        with notes(told=False):
            return replay(spec, run=runs.run(spec.run))
    for label, text in planned.lines:
        tell(label, text, err=quiet)
    if planned.imports:
        typer.echo(f"imports {planned.imports}", err=True)
    try:
        with stage("Loading torch"):
            from postmortem.replay.run_replay import replay
        with notes(told=True), progress("Replaying") as advance:
            start, length = spec.from_step, spec.until - spec.from_step
            return replay(
                spec,
                run=runs.run(spec.run),
                on_step=lambda step, _, loss, was: advance(step - start, length, loss, was),
            )
    except KeyboardInterrupt as error:
        out = Path(spec.out)
        left = f"What was driven lies in {shown(out)}" if out.exists() else "Nothing was written"
        raise Interrupted(f"interrupted. {left}; the same command starts anew") from error


def _attached(planned: ReplayPlan, runs: OpenRuns, result: ReplayResult) -> str:
    """What became of the incident, told in the run's report from now on; "" where none lies in these steps."""
    from postmortem.experiment.record_outcome import record_outcome
    from postmortem.report import DIAGNOSIS, default_out

    run = Path(planned.spec.run)
    try:
        with stage("Judging the replay"):
            found = record_outcome(planned.spec, result, runs)
            if found is None:
                return ""
            if (default_out(run) / DIAGNOSIS).is_file():
                redraft(run, found[0], runs)
    except OSError as error:
        typer.echo(f"note    the outcome is not kept beside the run: {plain(error, 300)}", err=True)
        return ""
    proof, one = found
    about = f"{proof.incident.kind.replace('_', ' ')} at step {proof.incident.onset_step}"
    return f"{plain(about, 100)}: {one.outcome or 'unknown'} ({plain(one.text.partition(': ')[2], 300)})"


def _tell(planned: ReplayPlan, runs: OpenRuns, result: ReplayResult, outcome: str, *, as_json: bool) -> None:
    from postmortem.diff import diff_runs, render
    from postmortem.replay.result import to_json
    from postmortem.replay.wording import reproduction

    spec, parent, out = planned.spec, shown(Path(planned.spec.run)), shown(Path(result.out))
    if as_json:
        typer.echo(to_json(result), nl=False)
        return
    tell("result", reproduction(result))
    if outcome:
        tell("outcome", outcome)
    typer.echo()
    with stage("Comparing the runs"):
        compared = diff_runs(runs.run(spec.run), runs.run(result.out))
    show(render.summary(compared, width(sys.stdout), unicode=encodes(sys.stdout)))
    typer.echo(f"\nrun     {out}")
    typer.echo(f"next    {f'postmortem prove {parent}{spec.options}' if spec.reason else f'postmortem draft {out}'}")
