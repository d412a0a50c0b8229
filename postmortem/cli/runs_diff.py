"""`runs-diff A B …`, which is `postmortem diff` under a shorter name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from postmortem.cli._app import new_app
from postmortem.cli._direct import direct_call
from postmortem.cli._guard import explained, guarded
from postmortem.cli._options import JsonOption, parse_maps
from postmortem.cli._output import display_path, print_lines, print_location
from postmortem.cli._runs import NamedRunsOption, open_all
from postmortem.cli._terminal import encodes, stage, text_width
from postmortem.errors import CheckFailed, UsageError


def diff(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B [C ...]",
            help="Two runs; or three and more, each against the first. The logs of one run: with commas, A1,A2.",
        ),
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="[K:]NAME=COLUMN,...", help="Which column means what; with K:, only in run number K."
        ),
    ] = None,
    of_log: NamedRunsOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Say everything: what is unchanged, every key, incident and column.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write diff.json, diff.md and diff.png here.")
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--md", help="Print the diff as a Markdown page.")] = False,
    as_json: JsonOption = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 unless every run is identical or equivalent.")
    ] = False,
) -> None:
    """Compare runs (also installed as `runs-diff`).

    It says from which step on they differ, and why. Verdicts: identical (every
    bit), prefix (the same, and one ends earlier), equivalent (within the noise),
    transient (something happened, passed by itself, and the end is within the
    noise), recovered (the same, by a rollback), lingering (the end is not within
    the noise), different.

    \b
    Examples:
      postmortem diff runs/19-spike-001 runs/19-spike-001-recovered
      postmortem diff clean spiked recovered --out diffs/19
      postmortem diff null-replay original --exit-code --json > diff.json
      postmortem diff old.csv new.1.csv,new.2.csv --map 1:loss=train/loss
      postmortem diff wandb_export.csv --run baseline --run warmup
    """
    if as_json and as_markdown:
        raise UsageError("--json and --md both print; give one of them, and --out for the files of both")
    from postmortem.diff import diff_many_runs, diff_runs, render

    opened = open_all(runs, parse_maps(columns or [], len(runs)), of_log or [])
    if len(opened) < 2:
        raise UsageError("runs-diff takes two runs or more, as in: runs-diff runs/clean runs/spiked")
    with stage("Comparing"):
        result = diff_runs(*opened) if len(opened) == 2 else diff_many_runs(opened)
    written = None
    if out is not None:
        with stage("Drawing and writing"):
            written = render.write(result, out, everything=everything)
    if as_json:
        typer.echo(render.to_json(result), nl=False)
    elif as_markdown:
        typer.echo(render.markdown(result, everything=everything), nl=False)
    else:
        unicode = encodes(sys.stdout, "█▏→–…±−")
        print_lines(render.summary(result, text_width(sys.stdout), unicode=unicode, everything=everything))
    if written is not None:
        print_location("diff", display_path(written), err=as_json or as_markdown)
    if exit_code and not {"identical", "equivalent"}.issuperset(result.verdicts):
        raise CheckFailed


app = new_app("runs-diff")
app.command()(explained(diff))


def main() -> None:
    """The `runs-diff` command."""
    guarded(lambda: _run(sys.argv[1:]))


def _run(words: Sequence[str]) -> int | None:
    call = direct_call(explained(diff), words)
    return app(prog_name="runs-diff", standalone_mode=False) if call is None else call()
