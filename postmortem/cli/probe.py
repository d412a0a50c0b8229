"""`postmortem probe RUN A:B`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postmortem.cli._options import (
    ArithmeticOption,
    AttemptOption,
    JsonOption,
    ProgramOption,
    RunArgument,
    TrustOption,
    parse_indices,
    parse_window,
)
from postmortem.cli._output import display_path, print_json, print_labeled, print_lines, print_location
from postmortem.cli._program import print_imports
from postmortem.cli._terminal import columns, progress, stage
from postmortem.terminal_layout import joined, table
from postmortem.text import number

if TYPE_CHECKING:
    from postmortem.arithmetic import Mode
    from postmortem.probe.measurement import ProbeResult
    from postmortem.replay.distributed import Speaker
    from postmortem.replay.trust import NamedProgram
    from postmortem.run import Run

MOST_ROWS = 24  # of the table; the files contain every batch


def probe(
    run: RunArgument,
    window: Annotated[str, typer.Argument(metavar="A:B", help="The batches [A, B) to measure.")],
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="N,...", help="Steps of the states [default: the five nearest checkpoints]."),
    ] = None,
    attempt: AttemptOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the files go [default: RUN/postmortem/probe].")
    ] = None,
    program: ProgramOption = None,
    trust: TrustOption = False,
    arithmetic: ArithmeticOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the loss and gradient of batches, by checkpoint.

    Nothing is trained: each batch is run once forward and once backward in the
    state of each checkpoint. That shows whether the data, the state, or both
    are to blame.

    \b
    Examples:
      postmortem probe runs/19-spike-001 305:320
      postmortem probe runs/19-spike-001 310:315 --at 200,300 --json
    """
    from postmortem.atomic import check_place
    from postmortem.errors import require
    from postmortem.replay.distributed import joined_ranks
    from postmortem.replay.request import adopt_arithmetic
    from postmortem.replay.trust import trusted_program
    from postmortem.sources import open_run

    require("probe", "train", "torch", "xxhash")
    adopt_arithmetic(run, None, arithmetic)  # before the ranks join: that imports torch
    with joined_ranks() as ranks:
        batches, steps = parse_window("A:B", window), parse_indices("--at", at)
        opened = open_run(run)
        folder, within = out or (None if as_json else run / "postmortem" / "probe"), None if out else run
        if folder is not None:
            check_place(folder, within=within)
        announced = ranks.run_on_rank_0(lambda: trusted_program(opened.manifest.program, program, trust=trust))
        if ranks.first:
            print_imports(announced.notice)
        result = _measure(opened, batches, steps, ranks, announced, attempt, arithmetic or "recorded")
        if ranks.first:
            picture = None if folder is None else _write(result, folder, within)
            _print(opened, result, picture, arithmetic or "recorded", as_json=as_json)


def _measure(
    run: Run,
    window: tuple[int, int],
    steps: tuple[int, ...],
    ranks: Speaker,
    announced: NamedProgram,
    attempt: int | None,
    arithmetic: Mode,
) -> ProbeResult:
    with stage("Loading torch") if ranks.first else nullcontext():
        from postmortem.probe.measurement import probe_batches
    with progress("Probing") if ranks.first else nullcontext() as advance:
        return probe_batches(
            run,
            window,
            steps,
            announced=announced,
            attempt=attempt,
            arithmetic=arithmetic,
            on_measure=None if advance is None else lambda count, total: advance(count - 1, total),
        )


def _write(result: ProbeResult, folder: Path, within: Path | None) -> Path:
    from postmortem.probe.heatmap import write_probe

    return write_probe(result, folder, within=within)


def _print(run: Run, result: ProbeResult, picture: Path | None, arithmetic: Mode, *, as_json: bool) -> None:
    from postmortem.arithmetic import arithmetic_of

    if as_json:
        print_json(result)
    else:
        _print_table(result)
        typer.echo()
        print_labeled("probe", f"{result.blame}: {result.text}")
    differs = f"other arithmetic: {'; '.join(result.arithmetic)}" if result.arithmetic else ""
    print_labeled("bits", differs or arithmetic_of(run.manifest.environment, arithmetic, here=True).text, err=as_json)
    if picture is not None:
        print_location("picture", display_path(picture), err=as_json)


def _print_table(result: ProbeResult) -> None:
    """The worst batches; where a terminal is too narrow, the losses first and the gradient norms below them."""
    count, batches, width = len(result.states), range(*result.window), columns(sys.stdout)
    chosen = sorted(sorted(batches, key=lambda index: -sum(index in s.bad for s in result.states))[:MOST_ROWS])
    rows = _rows(result, chosen)
    lines = table(rows, None, right=range(1, 2 * count + 1))
    if width is not None and len(joined(lines[0])) > width:
        halves = (range(1, count + 1), range(count + 1, 2 * count + 1))
        loss, norm = ([[row[0], *(row[i] for i in half)] for row in rows] for half in halves)
        lines = [*table(loss, width, right=range(1, count + 1)), (), *table(norm, width, right=range(1, count + 1))]
    print_lines(lines)
    if len(chosen) < len(batches):
        typer.echo(f"{len(chosen)} of {len(batches)} batches; the files contain all of them")


def _rows(result: ProbeResult, chosen: Sequence[int]) -> list[list[str]]:
    states, first = result.states, result.window[0]
    rows = [["batch", *(f"loss at {s.step}" for s in states), *(f"grad norm at {s.step}" for s in states)]]
    for index in chosen:
        mark = "*" if any(index in s.bad for s in states) else ""
        figures = [s.loss[index - first] for s in states] + [s.grad_norm[index - first] for s in states]
        rows.append([f"{index}{mark}", *map(number, figures)])
    usual = [s.usual_loss for s in states] + [s.usual_grad_norm for s in states]
    rows.append(["usual", *(number(figure.median if figure else None) for figure in usual)])
    return rows
