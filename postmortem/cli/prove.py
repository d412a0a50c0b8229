"""`postmortem prove RUN`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postmortem.cli._listing import tell
from postmortem.cli._options import ArithmeticOption, shown
from postmortem.cli._program import Interrupted
from postmortem.cli._redraft import redraft
from postmortem.cli._terminal import stage
from postmortem.text import number, plain

if TYPE_CHECKING:
    from postmortem.assess.proof import Proof
    from postmortem.experiment.prove import ExperimentRun
    from postmortem.experiment.target import ExperimentTarget


def prove(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory that a recorder wrote.")],
    incident: Annotated[
        int | None, typer.Option("--incident", metavar="N", help="Prove incident N, not what led to the worst.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and what it costs; drive nothing.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="Replays side by side [default: one a processor].")
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="DIR", help="Write one job per replay into DIR; drive nothing.")
    ] = None,
    collect: Annotated[
        Path | None, typer.Option("--collect", metavar="DIR", help="Judge what the jobs of DIR brought back.")
    ] = None,
    program: Annotated[
        str | None, typer.Option("--program", metavar="MODULE:FACTORY", help="Drive this instead of the run's own.")
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Import and run the program that the run names.")] = False,
    arithmetic: ArithmeticOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 unless a cause is confirmed.")] = False,
) -> None:
    """Test the leading causes by replays, and set the verdict.

    A null replay first: what does not appear again cannot be cured. Then the change that each hypothesis names,
    placebos of the same size, and the suspect data in another state. A cause is confirmed only where its own replays
    come out as it says, no placebo cures, and its rivals fail. An interrupted experiment goes on where it was.

    \b
    Examples:
      postmortem prove runs/19-spike-001 --dry-run
      postmortem prove runs/19-spike-001
      postmortem prove runs/big --export jobs/    # then, when they ran: --collect jobs/
    """
    from postmortem.errors import UsageError, require
    from postmortem.experiment.design import design
    from postmortem.experiment.prove import ExperimentRun
    from postmortem.experiment.target import find_target

    require("prove", "train", "torch", "xxhash")
    if export is not None and collect is not None:
        raise UsageError("--export writes jobs and --collect reads what they brought back: one at a time")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers is {workers}; it must be at least 1")
    apart = export or collect
    with stage(f"Reading {run}"):
        about = find_target(
            run,
            "prove",
            incident=incident,
            program=program,
            trusted=trust,
            workers=workers,
            mode=arithmetic or "recorded",
        )
    if apart is not None:
        about = replace(about, folder=apart, key="", collect=collect is not None)
    bench = ExperimentRun(
        about, design(about.incident, from_step=about.from_step, end=about.end, apart=apart is not None)
    )
    if about.imports:
        tell("imports", about.imports, err=True)
    bits = about.arithmetic.text if apart is None else ""
    if bits and as_json:
        tell("bits", bits, err=True)
    if not as_json or dry_run:
        _plan(bench, bits, as_json=as_json)
    if export is not None:
        from postmortem.experiment.export import SCRIPT
        from postmortem.experiment.export import export as write

        specs = write(bench, export)
        tell("jobs", f"{len(specs)} in {shown(export / SCRIPT)}", err=as_json)
        tell("next", f"postmortem prove {shown(run)} --collect {shown(export)}{about.options}", err=as_json)
        return
    if dry_run:
        return
    proof = _drive(bench, quiet=as_json)
    _keep(run, about, proof, as_json=as_json)
    if check and proof.verdict != "confirmed":
        raise typer.Exit(1)


def _plan(bench: ExperimentRun, bits: str, *, as_json: bool) -> None:
    from postmortem.experiment.cost import cost

    found = cost(bench)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1))
        return
    incident = bench.target.incident
    at = f"{plain(incident.title)} at step {incident.onset_step}"
    start = f"the checkpoint at step {bench.design.from_step}" if bench.design.from_step else "scratch"
    worst = bench.target.led_to
    if worst is not None:
        at += f", the first of those that led to the worst one (step {worst.onset_step}; --incident {worst.id})"
    tell("about", f"{at}, replayed from {start} to step {bench.design.until}")
    if bits:
        tell("bits", bits)
    for role, count, what in found.lines:
        tell(role, f"{count} × {what}")
    tell("cost", f"at most {found.steps} steps in {found.replays} replays{found.time}; it stops once decided\n")


def _drive(bench: ExperimentRun, *, quiet: bool) -> Proof:
    from postmortem.experiment.prove import prove as run_experiment

    running: list[str] = []
    try:
        with stage("Null replay") as say:

            def heard(name: str, text: str) -> None:
                if not text:
                    running.append(name)
                else:
                    running.remove(name)
                    if not quiet:
                        with say.aside():
                            tell(name[:2], plain(text, 1000))
                say(f"Driving {', '.join(running[:3])}{' …' if len(running) > 3 else ''}")

            bench.on_arm = heard
            return run_experiment(bench)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted. The same command goes on with the replays that are not done yet") from error


def _keep(run: Path, about: ExperimentTarget, proof: Proof, *, as_json: bool) -> None:
    """Keep the proof, and draft the report anew with it."""
    from postmortem import jsonio
    from postmortem.assess.proof import kept, store
    from postmortem.replay.branch import root_of, writing

    with stage("Drawing and writing the report"):
        with writing(root_of(about.run)):
            store(root_of(about.run), proof, kept(about.run))
        written, known = redraft(run, proof, about.runs)
    if as_json:
        steps = sum(one.steps for one in proof.experiments)
        found = {**jsonio.as_json(proof), "replays": len(proof.experiments), "steps": steps}
        typer.echo(jsonio.strict_json(found), nl=False)
        return
    typer.echo()
    tell("verdict", f"{proof.verdict}{f': {proof.cause}' if proof.cause else ''}")
    tell("why", plain(proof.text, 2000))
    if known.root_cause:
        tell("cause", plain(known.root_cause, 1000))
    spent = sum(one.seconds for one in proof.experiments)
    steps = sum(one.steps for one in proof.experiments)
    tell("cost", f"{len(proof.experiments)} replays, {steps} steps, {number(spent)} s of driving")
    tell("report", shown(written))
    if known.remedy:
        chosen = "" if known.id == 1 else f" --incident {known.id}"
        tell("next", f"postmortem verify {shown(written.parent / 'diagnosis.json')}{chosen}{about.options}")
