"""`postmortem prove RUN`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postmortem.cli._lessons import LessonsOption, Notebook, UndecidedOption, open_notebook
from postmortem.cli._options import (
    ArithmeticOption,
    FirstIncidentOption,
    JsonOption,
    ProgramOption,
    RunArgument,
    TrustOption,
)
from postmortem.cli._output import display_path, print_json, print_labeled, print_location
from postmortem.cli._program import print_imports
from postmortem.cli._terminal import stage
from postmortem.errors import CheckFailed, Interrupted, UsageError, require
from postmortem.text import count, number, plain

if TYPE_CHECKING:
    from postmortem.diagnosis import Incident
    from postmortem.experiment.prove import ExperimentDriver
    from postmortem.experiment.target import ExperimentTarget
    from postmortem.proof.stored_proofs import Proof


def prove(
    run: RunArgument,
    incident: FirstIncidentOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and what it costs; drive nothing.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="Replays side by side [default: one per processor].")
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="DIR", help="Write one job per replay into DIR; drive nothing.")
    ] = None,
    collect: Annotated[
        Path | None, typer.Option("--collect", metavar="DIR", help="Judge the results that the jobs left in DIR.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Take over no finished replays; drive all of them again.")
    ] = False,
    program: ProgramOption = None,
    trust: TrustOption = False,
    arithmetic: ArithmeticOption = None,
    lessons: LessonsOption = None,
    undecided: UndecidedOption = False,
    as_json: JsonOption = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 unless a cause is confirmed.")] = False,
) -> None:
    """Test the leading causes by replays; set the verdict.

    A null replay comes first: an incident that does not appear again cannot be
    cured. Then come the change that each hypothesis names, placebos of the same
    size, and the suspect data in another state. A cause is confirmed only if
    its own replays have the predicted outcomes, no placebo cures, and its
    rivals fail. The incident's line in lessons.md follows the verdict. An
    interrupted experiment continues where it stopped. In a run from somebody
    else, --fresh drives the replays that came with it again.

    \b
    Examples:
      postmortem prove runs/19-spike-001 --dry-run
      postmortem prove runs/19-spike-001
      postmortem prove runs/big --export jobs/   # run the jobs, then: --collect
    """
    require("prove", "train", "torch", "xxhash")
    if export is not None and collect is not None:
        raise UsageError("--export writes jobs and --collect reads their results: one at a time")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers is {workers}; it must be at least 1")
    from postmortem.experiment.target import find_target
    from postmortem.proof.stored_proofs import dated

    with stage(f"Reading {run}"):
        mode = arithmetic or "recorded"
        target = find_target(
            *(run, "prove"),
            incident=incident,
            program=program,
            trusted=trust,
            workers=workers,
            mode=mode,
            proven=False,  # an earlier proof must not change what is tested
        )
    experiment = _experiment(target, export or collect, collect=collect is not None)
    print_imports(target.announced.notice)
    bits = "" if export or collect else target.arithmetic.text  # elsewhere, other machines compute
    if bits and as_json:
        print_labeled("bits", bits, err=True)
    if dry_run or not as_json:
        _print_plan(experiment, bits, as_json=as_json)
    if export is not None:
        _export(run, experiment, export, as_json=as_json)
    elif not dry_run:
        from postmortem.experiment.redraft import check_keepable

        check_keepable(run, experiment.target)
        notebook = open_notebook(lessons, run, undecided=undecided, as_json=as_json)
        if collect is None:
            _take_over_finished(target, fresh=fresh, quiet=as_json)
        proof = dated(_drive(experiment, quiet=as_json))
        drafted = _keep(run, experiment.target, proof, notebook, as_json=as_json)
        if check and not proof.verdict == drafted == "confirmed":
            raise CheckFailed


def _experiment(target: ExperimentTarget, jobs: Path | None, *, collect: bool) -> ExperimentDriver:
    """The designed experiment; with `jobs` its replays are driven elsewhere, and their files are in that folder."""
    from postmortem.experiment.prove import ExperimentDriver
    from postmortem.proof.design import design_experiment

    if jobs is not None:
        target = replace(target, folder=jobs, key="", collect=collect)
    plan = design_experiment(target.incident, from_step=target.from_step, end=target.end, independent=jobs is not None)
    return ExperimentDriver(target, plan)


def _print_plan(experiment: ExperimentDriver, bits: str, *, as_json: bool) -> None:
    from postmortem.experiment.cost import estimate_cost

    total = estimate_cost(experiment)
    if as_json:
        print_json(total)
        return
    target, design = experiment.target, experiment.design
    title = f"{plain(target.incident.title)} at step {target.incident.onset_step}"
    start = f"the checkpoint at step {design.from_step}" if design.from_step else "scratch"
    worst = target.led_to
    if worst is not None:
        title += f", the first of those that led to the worst one (step {worst.onset_step}; --incident {worst.id})"
    print_labeled("about", f"{title}, replayed from {start} to step {design.until}")
    if bits:
        print_labeled("bits", bits)
    for group, replays, changes in total.lines:
        print_labeled(group, f"{replays} × {changes}")
    print_labeled(
        "cost",
        f"at most {total.steps} steps in {total.replays} replays{total.time}; it stops as soon as the result is clear",
    )
    typer.echo()


def _export(run: Path, experiment: ExperimentDriver, folder: Path, *, as_json: bool) -> None:
    from postmortem.experiment.export import SCRIPT, export_jobs

    specs = export_jobs(experiment, folder)
    print_location("jobs", f"{len(specs)} in {display_path(folder / SCRIPT)}", err=as_json)
    command = f"postmortem prove {display_path(run)} --collect {display_path(folder)}{experiment.target.options}"
    print_location("next", command, err=as_json)


def _drive(experiment: ExperimentDriver, *, quiet: bool) -> Proof:
    from postmortem.experiment.prove import prove as run_experiment

    running: list[str] = []
    try:
        with stage("Null replay") as show_stage:

            def on_arm(name: str, text: str) -> None:
                if not text:
                    running.append(name)
                else:
                    running.remove(name)
                    if not quiet:
                        with show_stage.aside():
                            print_labeled(name[:2], plain(text, 1000))
                show_stage(f"Driving {', '.join(running[:3])}{' …' if len(running) > 3 else ''}")

            experiment.on_arm = on_arm
            return run_experiment(experiment)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted. The same command continues with the replays that are not done yet") from error


def _take_over_finished(target: ExperimentTarget, *, fresh: bool, quiet: bool) -> None:
    """Say how many finished replays are taken over, or with `fresh` see to it that none is."""
    from postmortem.experiment.finished import discard_finished, finished_replays

    if fresh:
        discard_finished(target)
    finished = len(finished_replays(target))
    if finished and not quiet:
        print_labeled("reused", f"{count(finished, 'finished replay')}; --fresh drives them again")


def _keep(run: Path, target: ExperimentTarget, proof: Proof, notebook: Notebook | None, *, as_json: bool) -> str:
    """Keep the proof, draft the report with it, enter the lesson, and print the verdict; the verdict of the draft."""
    from postmortem.experiment.redraft import keep_proof
    from postmortem.jsonio import as_json as to_json
    from postmortem.proof.stored_proofs import proof_hash

    with stage("Drawing and writing the report"):
        redraft = keep_proof(run, target, proof)
    incident = redraft.incident
    entered = notebook is not None and notebook.enter(redraft.diagnosis, run, incident.id, redraft.report)
    steps = sum(experiment.steps for experiment in proof.experiments)
    if as_json:
        print_json({**to_json(proof), "hash": proof_hash(proof), "replays": len(proof.experiments), "steps": steps})
        return incident.verdict
    _print_verdict(proof, steps, incident)
    if incident.verdict != proof.verdict:
        doubt = incident.proof or "its notes say why"
        print_labeled("note", plain(f"the draft says {incident.verdict.replace('_', ' ')}: {doubt}", 1000))
    print_location("report", display_path(redraft.report))
    if notebook and entered:
        print_location("lesson", display_path(notebook.path))
    if incident.remedy:
        option = "" if incident.id == 1 else f" --incident {incident.id}"
        diagnosis = display_path(redraft.report.parent / "diagnosis.json")
        print_location("next", f"postmortem verify {diagnosis}{option}{target.options}")
    return incident.verdict


def _print_verdict(proof: Proof, steps: int, incident: Incident) -> None:
    typer.echo()
    print_labeled("verdict", f"{proof.verdict}{f': {proof.cause}' if proof.cause else ''}")
    print_labeled("why", plain(proof.text, 2000))
    if incident.root_cause:
        print_labeled("cause", plain(incident.root_cause, 1000))
    seconds = sum(experiment.seconds for experiment in proof.experiments)
    print_labeled("cost", f"{len(proof.experiments)} replays, {steps} steps, {number(seconds)} s of training")
