"""`runs-diff A B …`, which is `postmortem diff` by a name of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from postmortem.cli._guard import guarded
from postmortem.cli._options import parse_map, shown
from postmortem.cli._terminal import encodes, show, stage, width
from postmortem.errors import UsageError


def diff(
    runs: Annotated[
        list[Path], typer.Argument(metavar="A B [C ...]", help="Two runs; or three and more, each against the first.")
    ],
    everything: Annotated[
        bool, typer.Option("--all", help="Say everything: what is unchanged, every key, incident and column.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the diff as JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--md", help="Print the diff as a Markdown page.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write diff.json, diff.md and diff.png here.")
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 unless every run is identical or equivalent.")
    ] = False,
    columns: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="NAME=COLUMN,...", help="Which column of the logs is which, in all of them."),
    ] = None,
) -> None:
    """Hold runs against each other: where they part, why, and whether they meet again.

    Verdicts: identical (every bit), equivalent (within the noise), recovered (something happened, and its end is within
    the noise), lingering (and it is not), different.

    \b
    Examples:
      runs-diff runs/19-spike-001 runs/19-spike-001-recovered
      runs-diff clean spiked recovered --out diffs/19
      runs-diff null-replay original --exit-code --json > diff.json
    """
    if len(runs) < 2:
        raise UsageError("runs-diff takes two runs or more, as in: runs-diff runs/clean runs/spiked")
    if as_json and as_markdown:
        raise UsageError("--json and --md both print; give one of them, and --out for the files of both")
    from postmortem.diff import compare_runs, diff_runs, render
    from postmortem.sources import open_run

    mapping = parse_map(columns or [])
    opened = []
    for path in runs:
        with stage(f"Reading {path}"):
            opened.append(open_run(path, mapping))
    with stage("Comparing"):
        result = diff_runs(*opened) if len(opened) == 2 else compare_runs(opened)
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
        show(render.summary(result, width(sys.stdout), unicode=unicode, everything=everything))
    if written is not None:
        typer.echo(f"diff    {shown(written)}", err=as_json or as_markdown)
    if exit_code and not {"identical", "equivalent"}.issuperset(result.verdicts):
        raise typer.Exit(1)


app = typer.Typer(
    name="runs-diff",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command()(diff)


def main() -> None:
    """The `runs-diff` command."""
    guarded(lambda: app(prog_name="runs-diff"))
