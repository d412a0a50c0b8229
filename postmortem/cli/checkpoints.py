"""`postmortem checkpoints RUN`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from postmortem.cli._listing import reading, room, table, wrapped
from postmortem.text import plain

if TYPE_CHECKING:
    from postmortem.checkpoint.inspection import Inspection

_HEAD = ("", "role", "step", "size", "state", "inside", "finite", "checksums")


def checkpoints(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or one checkpoint of any run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="Read the tables only: nothing is said of checksums and non-finite values.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if a checkpoint is incomplete, damaged, refused or not finite.")
    ] = False,
) -> None:
    """List checkpoints without trusting them: what is inside, whether it is whole, and whether it is finite.

    Nothing of a checkpoint is run, torch is not needed, and memory stays small whatever the size. DCP directories and
    files of torch.save are read.

    \b
    Examples:
      postmortem checkpoints runs/exp7
      postmortem checkpoints runs/exp7/recovery/step-00001000.dcp --json --check
    """
    from postmortem.checkpoint.inventory import candidates, latest

    found: list[tuple[str, Inspection]] = []
    for candidate in candidates(run):
        with reading(f"Reading {candidate.shown}") as advance:
            found.append((candidate.shown, candidate.inspect(deep=not fast, on_progress=advance)))
    points = latest(run)
    newest = next((shown for shown, one in found if points is not None and one.path.resolve() == points), None)
    if as_json:
        typer.echo(json.dumps({"latest": newest, "checkpoints": [_row(*one) for one in found]}, indent=1))
    else:
        _show(found, newest)
    if check and any((not one.sound and not one.temporary) or one.nonfinite for _, one in found):
        raise typer.Exit(1)


def _row(shown: str, one: Inspection) -> dict[str, Any]:
    keys = ("kind", "role", "step", "complete", "size_bytes", "declared", "contents", "world_size", "tensors")
    more = ("nonfinite", "checksums", "discarded", "problems")
    return {"path": shown, "sound": one.sound} | {key: getattr(one, key) for key in (*keys, *more)}


def _show(found: list[tuple[str, Inspection]], newest: str | None) -> None:
    from postmortem.checkpoint.plan import spelled

    space = room(sys.stdout)
    rows: list[tuple[str, ...]] = [_HEAD]
    for shown, one in found:
        finite = "–" if one.nonfinite is None else "no" if one.nonfinite else "yes"
        inside = ", ".join(one.contents) or "–"
        step = "–" if one.step is None else str(one.step)
        mark = "*" if shown == newest else ""
        checksums = one.checksums.partition(":")[0]
        rows.append((mark, plain(one.role, 20), step, spelled(one.size_bytes), _state(one), inside, finite, checksums))
    for line in table(rows, right=(2, 3), flexible=5, room=space):
        typer.echo(line)
    for shown, one in found:
        said = [*one.problems, *_nonfinite(one)]
        if one.discarded:
            said.append(f"set aside: {plain(one.discarded, 200)}")
        if said:
            typer.echo(f"\n{shown}")
        for text in said:
            for line in wrapped(text, space, "  - "):
                typer.echo(line)
    if newest is not None:
        typer.echo(f"\n* latest leads to {newest}")


def _state(one: Inspection) -> str:
    if not one.kind:
        return "refused"
    if not one.complete:
        return "unfinished" if one.temporary else "incomplete"
    return "damaged" if one.problems else "set aside" if one.discarded else "ok"


def _nonfinite(one: Inspection) -> list[str]:
    if not one.nonfinite:
        return []
    first = ", ".join(f"{plain(name, 80)} ({count})" for name, count in list(one.nonfinite.items())[:3])
    more = f" and {len(one.nonfinite) - 3} more tensors" if len(one.nonfinite) > 3 else ""
    return [f"non-finite elements in {first}{more}"]
