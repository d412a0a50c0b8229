"""`postmortem replay RUN --probe A:B`: the table, the picture, the sentence."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import typer

from postmortem.arithmetic import arithmetic_of
from postmortem.cli._listing import labelled, room, table, tell
from postmortem.cli._options import shown
from postmortem.cli._terminal import progress, stage
from postmortem.jsonio import strict_json
from postmortem.run.manifest import inside
from postmortem.text import number, plain

if TYPE_CHECKING:
    from postmortem.probe.probe import Probe
    from postmortem.replay.distributed import Speaker
    from postmortem.replay.request import ReplayRequest

MOST_ROWS = 24  # of the table; the files hold every batch


def run_probe(
    asked: ReplayRequest, window: tuple[int, int], steps: tuple[int, ...], ranks: Speaker, *, as_json: bool
) -> None:
    """Probe, and on the first rank tell of it. Writes beside the run, or to `asked.out`; with `as_json` there only."""
    from postmortem.replay.trust import announced
    from postmortem.sources import open_run

    run = open_run(asked.run)
    imports = announced(run.manifest.program, asked.program, trust=asked.trusted)
    if imports and ranks.first:
        typer.echo(f"imports {imports}", err=True)
    with stage("Loading torch") if ranks.first else nullcontext():
        from postmortem.probe.probe import probe
    with progress("Probing") if ranks.first else nullcontext() as advance:
        found = probe(
            run,
            window,
            steps,
            program=asked.program,
            trusted=asked.trusted,
            attempt=asked.attempt,
            arithmetic=asked.arithmetic,
            on_measure=None if advance is None else lambda done, total: advance(done - 1, total),
        )
    if not ranks.first:
        return
    place = asked.out or (None if as_json else inside(asked.run, "postmortem/probe", plain(asked.run, 1000)))
    written = None
    if place is not None:
        from postmortem.probe.heatmap import write

        written = write(found, place)
    if as_json:
        typer.echo(strict_json(found), nl=False)
    else:
        for line in _lines(found):
            typer.echo(line)
    other = f"other arithmetic: {'; '.join(found.arithmetic)}" if found.arithmetic else ""
    tell("bits", other or arithmetic_of(run.manifest.environment, asked.arithmetic, here=True).text, err=as_json)
    if written is not None:
        typer.echo(f"picture {shown(written)}", err=as_json)


def _lines(probe: Probe) -> list[str]:
    states, space = probe.states, room(sys.stdout)
    rows = [["batch", *(f"loss at {s.step}" for s in states), *(f"grad norm at {s.step}" for s in states)]]
    batches = range(*probe.window)
    chosen = sorted(sorted(batches, key=lambda index: -sum(index in s.bad for s in states))[:MOST_ROWS])
    for index in chosen:
        row = index - probe.window[0]
        marked = "*" if any(index in s.bad for s in states) else ""
        figures = [number(s.loss[row]) for s in states] + [number(s.grad_norm[row]) for s in states]
        rows.append([f"{index}{marked}", *figures])
    medians = [s.usual_loss for s in states] + [s.usual_grad_norm for s in states]
    rows.append(["usual", *(number(usual.median if usual else None) for usual in medians)])
    lines = table(rows, right=range(1, 2 * len(states) + 1), flexible=0, room=None)
    if space is not None and len(lines[0]) > space:  # loss, and below it the gradient norm
        halves = (range(1, len(states) + 1), range(len(states) + 1, 2 * len(states) + 1))
        both = [[[row[0], *(row[i] for i in half)] for row in rows] for half in halves]
        loss, norm = (table(one, right=range(1, len(states) + 1), flexible=0, room=space) for one in both)
        lines = [*loss, "", *norm]
    if len(chosen) < len(batches):
        lines.append(f"{len(chosen)} of {len(batches)} batches; the files hold all of them")
    return [*lines, "", *labelled("probe", f"{probe.blame}: {probe.text}", sys.stdout)]
