"""`postmortem replay RUN --probe A:B`: the table, the picture, the sentence."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import typer

from postmortem.cli._listing import room, table
from postmortem.cli._options import shown
from postmortem.cli._terminal import progress, stage
from postmortem.text import number

if TYPE_CHECKING:
    from postmortem.replay.defaults import Asked
    from postmortem.replay.distributed import Speaker
    from postmortem.replay.probe import Probe

MOST_ROWS = 24  # of the table; the files hold every batch


def run_probe(asked: Asked, window: tuple[int, int], steps: tuple[int, ...], ranks: Speaker, *, as_json: bool) -> None:
    """Probe, and on the first rank tell of it. Writes beside the run, or to `asked.out`; with `as_json` there only."""
    from postmortem.replay.trust import announced
    from postmortem.sources import open_run

    run = open_run(asked.run)
    imports = announced(run.manifest.program, asked.program, trust=asked.trusted)
    if imports and ranks.first:
        typer.echo(f"imports {imports}", err=True)
    with stage("Loading torch") if ranks.first else nullcontext():
        from postmortem.replay.probe import probe
    with progress("Probing") if ranks.first else nullcontext() as advance:
        found = probe(
            run,
            window,
            steps,
            program=asked.program,
            trusted=asked.trusted,
            attempt=asked.attempt,
            on_measure=None if advance is None else lambda done, total: advance(done - 1, total),
        )
    if not ranks.first:
        return
    place = asked.out or (None if as_json else asked.run / "postmortem" / "probe")
    written = None if place is None else found.write(place)
    if as_json:
        typer.echo(found.to_json(), nl=False)
    else:
        for line in _lines(found):
            typer.echo(line)
    if written is not None:
        typer.echo(f"picture {shown(written)}", err=as_json)


def _lines(probe: Probe) -> list[str]:
    states = probe.states
    head = ["batch", *(f"loss at {s.step}" for s in states), *(f"grad norm at {s.step}" for s in states)]
    rows = [head]
    batches = range(*probe.window)
    chosen = sorted(sorted(batches, key=lambda index: -sum(index in s.bad for s in states))[:MOST_ROWS])
    for index in chosen:
        row = index - probe.window[0]
        marked = "*" if any(index in s.bad for s in states) else ""
        figures = [number(s.loss[row]) for s in states] + [number(s.grad_norm[row]) for s in states]
        rows.append([f"{index}{marked}", *figures])
    medians = [s.usual_loss for s in states] + [s.usual_grad_norm for s in states]
    rows.append(["usual", *(number(usual.median if usual else None) for usual in medians)])
    lines = table(rows, right=range(1, len(head)), flexible=0, room=room(sys.stdout))
    if len(chosen) < len(batches):
        lines.append(f"{len(chosen)} of {len(batches)} batches; the files hold all of them")
    return [*lines, "", f"probe   {probe.blame}: {probe.text}"]
