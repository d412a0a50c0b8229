"""`runs-diff A B`."""

from __future__ import annotations

import sys

import typer


def main() -> None:
    """Say that there is nothing here yet."""
    typer.echo(
        "runs-diff: not yet. Comparing two runs comes with replaying them; `postmortem draft` reads each.", err=True
    )
    sys.exit(2)
