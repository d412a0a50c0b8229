"""`postmortem verify DIAGNOSIS`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postmortem.cli._listing import tell
from postmortem.cli._options import ArithmeticOption, parse_map, shown
from postmortem.cli._program import Interrupted, notes
from postmortem.cli._terminal import progress, stage
from postmortem.text import number, plain

if TYPE_CHECKING:
    from postmortem.arithmetic import Mode
    from postmortem.diagnosis import Diagnosis, Incident, Verification


def verify(
    diagnosis: Annotated[Path, typer.Argument(metavar="DIAGNOSIS", help="A diagnosis.json that a draft wrote.")],
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="RUN", help="The run with the fix in it [default: one is driven]."),
    ] = None,
    incident: Annotated[
        int | None, typer.Option("--incident", metavar="N", help="Verify incident N instead of the worst.")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="NAME=COLUMN,...", help="Which column of RUN is which.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--change", metavar="NAME=VALUE", help="Drive with this instead of the diagnosis's remedy."),
    ] = None,
    program: Annotated[
        str | None, typer.Option("--program", metavar="MODULE:FACTORY", help="Drive this instead of the run's own.")
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Import and run the program that the run names.")] = False,
    arithmetic: ArithmeticOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Hold a fixed run against section 6 of a post-mortem: each expected figure with the one measured.

    Without --against, the run beside the diagnosis is replayed with the remedy first. Where its bits cannot be had on
    this machine, the figures allow what null replays differ by. Exits with 0 if every figure holds, with 1 if one does
    not or was not logged.

    \b
    Examples:
      postmortem verify runs/19-spike-001/postmortem/diagnosis.json
      postmortem verify runs/19-spike-001/postmortem/diagnosis.json --against runs/19-spike-002
    """
    from postmortem import report
    from postmortem.assess.verification import verify as measure
    from postmortem.diagnosis import load
    from postmortem.errors import UsageError
    from postmortem.sources import open_run

    loaded = load(diagnosis)
    chosen = report.select(loaded, number=incident, at=None)
    known = next((one for one in loaded.incidents if one.id == chosen), None)
    if known is None or known.verification is None:
        raise UsageError(f"{plain(diagnosis)}: holds no incident to verify.")
    expected = known.verification
    if against is None:
        mode = arithmetic or "recorded"
        against, expected = _driven(
            diagnosis, loaded, known, expected, change or [], program, trust, mode, quiet=as_json
        )
    with stage(f"Reading {against}"):
        run = open_run(against, parse_map(columns or []))
        results = measure(expected, known.onset_step, run)
    passed = all(result.passed for result in results)
    if as_json:
        rows = [asdict(r) for r in results]
        for row in rows:  # strict JSON has no NaN and no infinity
            if row["measured"] is not None and not math.isfinite(row["measured"]):
                row["measured"] = number(row["measured"])
        typer.echo(json.dumps({"passed": passed, "results": rows}, indent=1))
    else:
        for result in results:
            measured = "not logged" if result.measured is None else number(result.measured)
            typer.echo(f"{'pass' if result.passed else 'FAIL'}  {plain(result.text)}: {measured}")
    if not passed:
        raise typer.Exit(1)


def _driven(
    file: Path,
    loaded: Diagnosis,
    incident: Incident,
    expected: Verification,
    change: list[str],
    program: str | None,
    trust: bool,
    mode: Mode,
    *,
    quiet: bool,
) -> tuple[Path, Verification]:
    """The run beside the diagnosis, replayed with its remedy; what is expected of it, within the band that was measured
    where bits cannot be had."""
    from postmortem.errors import UsageError, require
    from postmortem.experiment.null_replay import BAND
    from postmortem.experiment.target import find_target
    from postmortem.experiment.verify_remedy import replay_with_remedy, widened
    from postmortem.interventions import make, parse_change

    require("verify without --against", "train", "torch", "xxhash")
    root = file.resolve().parent.parent
    if file.resolve().parent.name != "postmortem" or not (root / "run.json").is_file():
        raise UsageError(f"{plain(file)}: lies in no run that could be replayed; name the fixed run with --against RUN")
    changes = tuple(map(parse_change, change)) if change else incident.remedy
    if changes is None:
        raise UsageError(
            "the diagnosis knows no remedy yet: prove a cause first (postmortem prove), or name a change with --change"
        )
    place = Path(shown(root))
    about = find_target(place, "verify", incident=incident.id, program=program, trusted=trust, mode=mode)
    if plain(about.run.id) != loaded.run_id:
        raise UsageError(f"{plain(file)}: is about {plain(loaded.run_id)}, and the run here is {plain(about.run.id)}")
    if about.incident.key != incident.key:
        raise UsageError(f"{plain(file)}: the run has changed since; draft it anew: postmortem draft {shown(root)}")
    if about.imports:
        typer.echo(f"imports {about.imports}", err=True)
    told = ", ".join(make(one).text for one in changes) or "nothing changed"
    typer.echo(f"replay  from step {about.from_step} to {expected.through_step}: {plain(told, 500)}", err=quiet)
    tell("bits", about.arithmetic.text, err=quiet)
    about.arithmetic.adopt()
    start, length = about.from_step, expected.through_step + 1 - about.from_step
    try:
        with notes(told=True), progress("Replaying") as advance:
            result = replay_with_remedy(
                about,
                expected.through_step + 1,
                changes,
                on_step=lambda step, _, loss, was: advance(step - start, length, loss, was),
            )
        if result.arithmetic:
            tell("bits", f"other arithmetic: {'; '.join(result.arithmetic)}{BAND}", err=quiet)
            with stage("Measuring the band: null replays"):
                expected = widened(about, expected)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted. The same command drives it anew") from error
    return Path(result.out), expected
