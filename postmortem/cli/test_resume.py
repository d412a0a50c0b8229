"""`postmortem test-resume PROGRAM`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from postmortem.cli._options import JsonOption
from postmortem.cli._output import print_json, print_lines
from postmortem.cli._terminal import stage, text_width
from postmortem.errors import CheckFailed
from postmortem.terminal_layout import wrap


def test_resume(
    program: Annotated[
        str, typer.Argument(metavar="PROGRAM", help="Your training: module:factory, importable from this folder.")
    ],
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Its config, JSON or YAML [default: none].")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="Steps of the straight run.")] = 40,
    kill_at: Annotated[
        int | None, typer.Option("--kill-at", metavar="K", help="Save and kill at this step [default: N/2].")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", metavar="T", help="CPU threads of each training.")] = 1,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep the records of the trainings in DIR.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that a training resumes exactly.

    Compares N straight steps with kill -9 and resume. PROGRAM is imported and
    run three times, each time in its own process; it follows the contract of
    postmortem.program. Exits with 0 if loss bits, state and batches are equal,
    and with 1 if they are not: then it names the first step and the first piece
    of state that differ.

    \b
    Examples:
      postmortem test-resume train:build --config config.json --steps 200
      postmortem test-resume postmortem.lab.program:build --config lab.json
    """
    from postmortem.errors import require
    from postmortem.run.manifest import read_mapping

    require("test-resume", "train", "torch", "xxhash")
    from postmortem.resume_test.run_resume_test import run_resume_test

    settings = {} if config is None else read_mapping(config)
    with stage("Testing the resume") as show_stage:
        result = run_resume_test(
            program,
            settings,
            steps=steps,
            kill_at=kill_at,
            threads=threads,
            folder=keep,
            on_leg=lambda count, legs, name: show_stage(f"Testing the resume: {name} training ({count + 1} of {legs})"),
        )
    if as_json:
        print_json(result)
    else:
        print_lines(line for text in result.lines() for line in wrap(text, text_width(sys.stdout), hang=2))
    if result.verdict != "exact":
        raise CheckFailed
