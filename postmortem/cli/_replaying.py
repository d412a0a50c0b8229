"""Driving one replay from the command line: the plan, the progress, the result. Shared by `replay` and `run-job`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from postmortem.cli._output import display_path, print_labeled, print_lines, print_location
from postmortem.cli._program import notes, print_imports
from postmortem.cli._terminal import encodes, progress, stage, text_width
from postmortem.errors import CannotWrite, Interrupted, NotReproduced, UsageError
from postmortem.text import plain

if TYPE_CHECKING:
    from postmortem.pipeline import OpenRuns
    from postmortem.replay.distributed import Speaker
    from postmortem.replay.request import ReplayPlan
    from postmortem.run.replayed import ReplayResult


def drive_replay(
    plan: Callable[[OpenRuns], ReplayPlan], *, keep_outcome: bool, as_json: bool, check: bool = False
) -> None:
    """Drive what `plan` plans, on every rank, and print the result on the first one. With `keep_outcome`, the run's
    report says from then on what the replay did to the incident.

    Raises NotReproduced, if `check` asks for it, if a null replay should equal the run bit for bit but does not.
    """
    from postmortem.pipeline import OpenRuns
    from postmortem.replay.distributed import joined_ranks

    runs = OpenRuns()
    with joined_ranks() as ranks:
        planned = ranks.run_on_rank_0(lambda: plan(runs))
        result = _drive(planned, runs, ranks, quiet=as_json)
        if ranks.first:
            outcome = _keep_outcome(planned, runs, result) if keep_outcome else ""
            _print_result(planned, runs, result, outcome, as_json=as_json)
    if check and not planned.spec.changes and not result.exact and not result.arithmetic:
        raise NotReproduced


def _drive(planned: ReplayPlan, runs: OpenRuns, ranks: Speaker, *, quiet: bool) -> ReplayResult:
    spec = planned.spec
    if not ranks.first:
        from postmortem.replay.run_replay import replay

        with notes(shown=False):
            return replay(spec, run=runs.run(spec.run))
    for label, text in planned.lines:
        print_labeled(label, text, err=quiet)
    print_imports(planned.imports)
    try:
        with stage("Loading torch"):
            from postmortem.replay.run_replay import replay
        with notes(shown=True), progress("Replaying") as advance:
            start, length = spec.from_step, spec.until - spec.from_step
            return replay(
                spec,
                run=runs.run(spec.run),
                on_step=lambda step, _, loss, was: advance(step - start, length, loss, was),
            )
    except KeyboardInterrupt as error:
        out = Path(spec.out)
        remains = f"The steps driven so far are in {display_path(out)}" if out.exists() else "Nothing was written"
        raise Interrupted(f"interrupted. {remains}; the same command starts again") from error


def _keep_outcome(planned: ReplayPlan, runs: OpenRuns, result: ReplayResult) -> str:
    """What the replay did to the incident, in one sentence; "" if its steps meet no incident."""
    from postmortem.experiment.redraft import report_outcome

    try:
        with stage("Judging the replay"):
            kept = report_outcome(planned.spec, result, runs)
    except (CannotWrite, UsageError) as error:  # the replay itself is done
        print_labeled("note", f"the outcome cannot be kept beside the run: {plain(error, 300)}", err=True)
        return ""
    if kept is None:
        return ""
    proof, experiment = kept
    incident = f"{proof.incident.kind.replace('_', ' ')} at step {proof.incident.onset_step}"
    reason = experiment.text.partition(": ")[2]
    return f"{plain(incident, 100)}: {experiment.outcome or 'unknown'} ({plain(reason, 300)})"


def _print_result(planned: ReplayPlan, runs: OpenRuns, result: ReplayResult, outcome: str, *, as_json: bool) -> None:
    from postmortem.diff import diff_runs, render
    from postmortem.replay.wording import reproduction
    from postmortem.run.replayed import to_json

    if as_json:
        typer.echo(to_json(result), nl=False)
        return
    spec, parent, out = planned.spec, display_path(Path(planned.spec.run)), display_path(Path(result.out))
    print_labeled("result", reproduction(result))
    if outcome:
        print_labeled("outcome", outcome)
    typer.echo()
    with stage("Comparing the runs"):
        diff = diff_runs(runs.run(spec.run), runs.run(result.out))
    print_lines(render.summary(diff, text_width(sys.stdout), unicode=encodes(sys.stdout)))
    typer.echo()
    print_location("run", out)
    print_location("next", f"postmortem prove {parent}{spec.options}" if spec.reason else f"postmortem draft {out}")
