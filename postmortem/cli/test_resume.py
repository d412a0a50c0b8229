"""`postmortem test-resume PROGRAM`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from postmortem.cli._terminal import stage


def test_resume(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help="Your training: module:factory, found from here.")],
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Its config, JSON or YAML [default: none].")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="Steps of the straight run.")] = 40,
    kill_at: Annotated[
        int | None, typer.Option("--kill-at", metavar="K", help="Save and kill at this step [default: N/2].")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", metavar="T", help="CPU threads of every leg.")] = 1,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep the records of the legs in DIR.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Prove that a training resumes exactly: N steps straight against kill -9 and resume.

    PROGRAM is imported and run, three times, in processes of its own; it follows the contract of postmortem.program.
    Exits with 0 where loss bits, state and batches are equal, with 1 where they are not: then the first step and the
    first piece of state that differ are named.

    \b
    Examples:
      postmortem test-resume train:build --config config.json --steps 200 --kill-at 100
      postmortem test-resume postmortem.lab.program:build --config lab.json
    """
    from postmortem.errors import require
    from postmortem.run.manifest import read_mapping

    require("test-resume", "train", "torch", "xxhash")
    from postmortem.resume_test.run_resume_test import run_resume_test

    settings = {} if config is None else read_mapping(config)
    with stage("Testing the resume") as say:
        result = run_resume_test(
            program,
            settings,
            steps=steps,
            kill_at=kill_at,
            threads=threads,
            folder=keep,
            on_leg=lambda done, legs, name: say(f"Testing the resume: {name} leg ({done + 1} of {legs})"),
        )
    if as_json:
        typer.echo(json.dumps(asdict(result), indent=1))
    else:
        for line in result.lines():
            typer.echo(line)
    if result.verdict != "exact":
        raise typer.Exit(1)
