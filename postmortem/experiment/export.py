"""Exports an experiment as jobs, one per arm, for machines that only their own launcher can drive."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from postmortem.atomic import make_folder, names_in, saving, write_text
from postmortem.errors import UsageError
from postmortem.experiment.prove import NULL_AGAIN, ExperimentDriver
from postmortem.jsonio import strict_json
from postmortem.replay.spec import ReplaySpec
from postmortem.replay.start_checkpoint import find_checkpoint
from postmortem.text import plain

JOBS, SCRIPT = "jobs.json", "jobs.sh"


def export_jobs(experiment: ExperimentDriver, folder: Path) -> list[ReplaySpec]:
    """Write one spec per arm into `folder`, independent of each other, with a list of the jobs and a script of them.

    Raises:
        UsageError: the folder contains something else.
        CannotWrite: it cannot be written.
    """
    design = experiment.design
    arms = dict.fromkeys(
        [*design.placebos, *design.data_state_arms, *(arm for test in design.tests for arm in test.arms)]
    )
    specs = [experiment.null_spec(), experiment.null_spec(NULL_AGAIN), *map(experiment.spec, arms)]
    jobs = [_job(experiment, spec, folder) for spec in specs]
    with saving(folder, option="--export DIR"):
        if folder.exists() and (not folder.is_dir() or (names_in(folder) and not (folder / JOBS).is_file())):
            raise UsageError(
                f"{plain(folder, 1000)}: already exists and contains no exported jobs; choose another folder"
            )
        make_folder(folder)
        write_text(folder / JOBS, strict_json(jobs))  # first: it says whose the other files are
        for spec in specs:
            write_text(_spec_file(folder, spec), spec.to_json())
        write_text(folder / SCRIPT, _script(jobs))
    return specs


def _script(jobs: Sequence[Mapping[str, object]]) -> str:
    lines = [
        "#!/bin/sh",
        "# One independent job per line; to use a launcher, put torchrun or srun before the command.",
        "",
    ]
    return "\n".join([*lines, *(str(job["command"]) for job in jobs)]) + "\n"


def _job(experiment: ExperimentDriver, spec: ReplaySpec, folder: Path) -> dict[str, object]:
    checkpoint = find_checkpoint(experiment.target.recorded, spec)
    command = ["postmortem", "run-job", str(_spec_file(folder, spec)), "--json"]
    command += ["--program", spec.program] if spec.program is not None else []
    return {
        "name": Path(spec.out).name,
        "command": shlex.join([*command, "--trust"] if spec.trusted else command),
        "checkpoint": None if checkpoint is None else experiment.target.relative_path(checkpoint),
        "skip": [change.body for change in spec.changes if change.name == "skip"],
        "changes": [str(change) for change in spec.changes],
        "from_step": spec.from_step,
        "until": spec.until,
    }


def _spec_file(folder: Path, spec: ReplaySpec) -> Path:
    return folder / f"{Path(spec.out).name}.json"
