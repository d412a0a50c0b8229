"""Experiments for machines that only their own launcher can drive: one job per arm out, their results back in."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from postmortem.atomic import write_text
from postmortem.errors import UsageError
from postmortem.experiment.prove import AGAIN, ExperimentRun
from postmortem.replay.spec import ReplaySpec
from postmortem.replay.start_checkpoint import find_checkpoint
from postmortem.text import plain

JOBS, SCRIPT = "jobs.json", "jobs.sh"


def export(bench: ExperimentRun, folder: Path) -> list[ReplaySpec]:
    """Write one order per arm, all independent of each other, into `folder`, with a list of jobs and a script of them.

    Raises:
        UsageError: the folder holds something else.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / JOBS).is_file())):
        raise UsageError(f"{plain(folder, 1000)}: is there already and holds no exported jobs; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    design = bench.design
    arms = dict.fromkeys([*design.placebos, *design.cross, *(arm for test in design.tests for arm in test.arms)])
    specs = [bench.null_order(), bench.null_order(AGAIN), *map(bench.spec, arms)]
    jobs = [_job(bench, spec, folder) for spec in specs]
    for spec in specs:
        write_text(_file(folder, spec), spec.to_json())
    write_text(folder / JOBS, json.dumps(jobs, indent=1) + "\n")
    lines = ["#!/bin/sh", "# One job a line, each by itself; under a launcher, put torchrun or srun before it.", ""]
    write_text(folder / SCRIPT, "\n".join([*lines, *(str(job["command"]) for job in jobs)]) + "\n")
    return specs


def _job(bench: ExperimentRun, spec: ReplaySpec, folder: Path) -> dict[str, object]:
    checkpoint = find_checkpoint(bench.target.recorded, spec)
    command = ["postmortem", "run-job", str(_file(folder, spec)), "--json"]
    command += ["--program", spec.program] if spec.program is not None else []
    return {
        "name": Path(spec.out).name,
        "command": shlex.join([*command, "--trust"] if spec.trusted else command),
        "checkpoint": None if checkpoint is None else bench.target.inside(checkpoint),
        "skip": [change.body for change in spec.changes if change.name == "skip"],
        "changes": [str(change) for change in spec.changes],
        "from_step": spec.from_step,
        "until": spec.until,
    }


def _file(folder: Path, spec: ReplaySpec) -> Path:
    return folder / f"{Path(spec.out).name}.json"
