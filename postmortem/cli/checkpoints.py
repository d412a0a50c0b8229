"""`postmortem checkpoints RUN`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from postmortem.atomic import real_path
from postmortem.cli._options import JsonOption
from postmortem.cli._output import print_json, print_lines, print_table
from postmortem.cli._terminal import reading, text_width
from postmortem.errors import CheckFailed
from postmortem.terminal_layout import Span, wrap
from postmortem.text import plain

if TYPE_CHECKING:
    from postmortem.checkpoint.inspection import Inspection

_HEAD = ("", "role", "step", "size", "state", "inside", "finite", "checksums")


def checkpoints(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or one checkpoint of any run.")],
    fast: Annotated[
        bool, typer.Option("--fast", help="Read the metadata only: no checksums, no search for non-finite values.")
    ] = False,
    as_json: JsonOption = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if a checkpoint is incomplete, damaged, refused or not finite.")
    ] = False,
) -> None:
    """List checkpoints without trusting them.

    It says what is inside, whether it is complete, and whether it is finite. No
    code of a checkpoint is run, torch is not needed, and memory stays small
    whatever the size. DCP directories, Hugging Face folders, safetensors and
    files of torch.save are read. What was found is kept in postmortem/ beside
    the run, so that a draft knows which checkpoints are healthy.

    \b
    Examples:
      postmortem checkpoints runs/exp7
      postmortem checkpoints runs/exp7/recovery/step-00001000.dcp --json
    """
    from postmortem.checkpoint.health import RunHealth
    from postmortem.checkpoint.inventory import latest, possible_checkpoints

    inspections: list[tuple[str, Inspection]] = []
    health = RunHealth(run)
    candidates = possible_checkpoints(run)
    for candidate in candidates:
        with reading(f"Reading {candidate.shown}") as advance:
            inspection = candidate.inspect(deep=not fast, pieces=not fast, on_progress=advance)
        inspections.append((candidate.shown, inspection))
        health.add(inspection)
    if not as_json and candidates[0].path != run:
        health.keep()
    target = latest(run)
    from_newest = reversed(inspections)  # nearly always it is the first of these
    newest = next((name for name, i in from_newest if target is not None and real_path(i.path) == target), None)
    if as_json:
        print_json({"latest": newest, "checkpoints": [_record(*named) for named in inspections]})
    else:
        _print(inspections, newest)
    if check and any((not i.sound and not i.temporary) or i.known_nonfinite for _, i in inspections):
        raise CheckFailed


def _record(name: str, inspection: Inspection) -> dict[str, Any]:
    keys = ("kind", "role", "step", "complete", "size_bytes", "declared", "contents", "world_size", "tensors")
    more = ("nonfinite", "recorded", "checksums", "discarded", "problems")
    values = {key: getattr(inspection, key) for key in (*keys, *more)}
    return {"path": name, "sound": inspection.sound, **values}


def _print(inspections: list[tuple[str, Inspection]], newest: str | None) -> None:
    print_table([_HEAD, *(_row(inspection, name == newest) for name, inspection in inspections)], right=(2, 3))
    for name, inspection in inspections:
        remarks = [*inspection.problems, *_nonfinite(inspection)]
        if inspection.discarded:
            remarks.append(f"set aside: {plain(inspection.discarded, 200)}")
        if remarks:
            typer.echo(f"\n{name}")
        for remark in remarks:
            print_lines(wrap(remark, text_width(sys.stdout), head=(Span("  - "),)))
    if newest is not None:
        typer.echo(f"\n* latest leads to {newest}")


def _row(inspection: Inspection, newest: bool) -> tuple[str, ...]:
    from postmortem.checkpoint.plan import readable_size

    return (
        "*" if newest else "",
        plain(inspection.role, 20),
        "–" if inspection.step is None else str(inspection.step),
        readable_size(inspection.size_bytes),
        _state(inspection),
        ", ".join(inspection.contents) or "–",
        "–" if inspection.known_nonfinite is None else "no" if inspection.known_nonfinite else "yes",
        inspection.checksums.partition(":")[0],
    )


def _state(inspection: Inspection) -> str:
    if not inspection.kind:
        return "refused"
    if not inspection.complete:
        return "unfinished" if inspection.temporary else "incomplete"
    return "damaged" if inspection.problems else "set aside" if inspection.discarded else "ok"


def _nonfinite(inspection: Inspection) -> list[str]:
    nonfinite = inspection.known_nonfinite
    if not nonfinite:
        return []
    first = ", ".join(f"{plain(name, 80)} ({count})" for name, count in list(nonfinite.items())[:3])
    more = f" and {len(nonfinite) - 3} more tensors" if len(nonfinite) > 3 else ""
    return [f"non-finite elements in {first}{more}"]
