"""`postmortem verify DIAGNOSIS`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postmortem.cli._options import (
    ArithmeticOption,
    ChangeOption,
    DiagnosisArgument,
    IncidentOption,
    JsonOption,
    MapOption,
    ProgramOption,
    TrustOption,
    parse_map,
)
from postmortem.cli._output import display_path, print_json, print_labeled, print_lines
from postmortem.cli._program import notes, print_imports
from postmortem.cli._terminal import progress, stage, text_width
from postmortem.errors import CheckFailed, Interrupted, NothingToVerify, UsageError, require
from postmortem.terminal_layout import Span, wrap
from postmortem.text import number, plain

if TYPE_CHECKING:
    from postmortem.assess.verification import Result
    from postmortem.change import Change
    from postmortem.diagnosis import Verification
    from postmortem.experiment.target import ExperimentTarget


def verify(
    diagnosis: DiagnosisArgument,
    incident: IncidentOption = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="RUN", help="The run that has the fix [default: one is driven]."),
    ] = None,
    columns: MapOption = None,
    change: ChangeOption = None,
    program: ProgramOption = None,
    trust: TrustOption = False,
    arithmetic: ArithmeticOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a fixed run against the figures of a post-mortem.

    Section 6 of the report names the expected figures; each is printed with the
    figure that was measured. Without --against, the run beside the diagnosis is
    replayed first, with the remedy or with --change. If this machine cannot
    reproduce its bits, the figures allow what null replays differ by. Exits
    with 0 if every figure is as expected, with 1 if one is not or was not
    logged, and with 6 if the cause is harmless and nothing has to be fixed.
    The run that broke never passes: of one that was rolled back later, the
    rows that were rolled back are checked.

    \b
    Examples:
      postmortem verify runs/exp7/postmortem/diagnosis.json
      postmortem verify runs/exp7/postmortem/diagnosis.json --against runs/exp8
    """
    from postmortem import report
    from postmortem.assess.verification import rows_of
    from postmortem.assess.verification import verify as measure
    from postmortem.diagnosis import load
    from postmortem.sources import open_run

    loaded = load(diagnosis)
    incident_id = report.select_id(loaded, number=incident, at=None)
    chosen = next((each for each in loaded.incidents if each.id == incident_id), None)
    if chosen is None or chosen.verification is None:
        raise UsageError(f"{plain(diagnosis)}: has no incident to verify.")
    expected = chosen.verification
    if expected.not_needed:
        if as_json:
            print_json({"passed": None, "results": []})
        raise NothingToVerify(plain(f"{diagnosis}: {expected.not_needed}", 500))
    driven = against is None
    if against is None:
        from postmortem.experiment.remedy_target import find_run, remedy_of, remedy_target

        require("verify without --against", "train", "torch", "xxhash")
        run = Path(display_path(find_run(diagnosis)))
        remedy = remedy_of(chosen, change or [])
        mode = arithmetic or "recorded"
        target = remedy_target(diagnosis, run, loaded, chosen, program=program, trusted=trust, mode=mode)
        against, expected = _replay_with_remedy(target, expected, remedy, quiet=as_json)
    with stage(f"Reading {against}"):
        checked = open_run(against, parse_map(columns or []))
        attempt = None if driven else rows_of(chosen, checked)
        results = measure(expected, chosen.onset_step, checked, attempt)
    if attempt is not None:
        text = f"those of attempt {attempt}, which were rolled back: this is the run that broke"
        print_labeled("rows", text, err=as_json)
    _print(results, as_json=as_json)
    if not all(result.passed for result in results):
        raise CheckFailed


def _replay_with_remedy(
    target: ExperimentTarget, expected: Verification, changes: tuple[Change, ...], *, quiet: bool
) -> tuple[Path, Verification]:
    """(the replay with the remedy, what is expected of it: within the measured band if bits cannot be reproduced)."""
    from postmortem.experiment.verify_remedy import replay_with_remedy, with_measured_band
    from postmortem.interventions import build_intervention
    from postmortem.proof.null_replay import BAND_NOTE

    print_imports(target.announced.notice)
    changed = plain(", ".join(build_intervention(change).text for change in changes) or "nothing changed", 500)
    print_labeled("replay", f"from step {target.from_step} to {expected.through_step}: {changed}", err=quiet)
    print_labeled("bits", target.arithmetic.text, err=quiet)
    target.arithmetic.adopt()
    start, until = target.from_step, expected.through_step + 1
    try:
        with notes(shown=True), progress("Replaying") as advance:
            result = replay_with_remedy(
                target,
                until,
                changes,
                on_step=lambda step, _, loss, was: advance(step - start, until - start, loss, was),
            )
        if result.arithmetic:
            print_labeled("bits", f"other arithmetic: {'; '.join(result.arithmetic)}{BAND_NOTE}", err=quiet)
            with stage("Measuring the band: null replays"):
                expected = with_measured_band(target, expected)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted. The same command starts again") from error
    return Path(result.out), expected


def _print(results: Sequence[Result], *, as_json: bool) -> None:
    if as_json:
        print_json({"passed": all(result.passed for result in results), "results": results})
        return
    for result in results:
        measured = "not logged" if result.measured is None else number(result.measured)
        measured += "" if result.passed or result.step is None else f" at step {result.step}"
        head = Span("pass  ", "green") if result.passed else Span("FAIL  ", "bold red")
        print_lines(wrap(f"{plain(result.text)}: {measured}", text_width(sys.stdout), head=(head,)))
