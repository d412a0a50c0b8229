"""Which replay verifies a diagnosis: the run beside it, and the remedy of its incident."""

from __future__ import annotations

import os
from pathlib import Path

from postmortem.arithmetic import Mode
from postmortem.change import Change
from postmortem.diagnosis import Diagnosis, Incident
from postmortem.errors import UsageError
from postmortem.experiment.target import ExperimentTarget, find_target
from postmortem.interventions import parse_change
from postmortem.text import plain


def find_run(file: Path) -> Path:
    """The run that the diagnosis in `file` is about: the folder above its own, as the path says it. No link leads from
    there to another run, because the replays are written into it.

    Raises:
        UsageError: the file is in no run.
    """
    folder = Path(os.path.normpath(file.absolute())).parent
    if folder.name != "postmortem" or not (folder.parent / "run.json").is_file():
        raise UsageError(f"{plain(file)}: is in no run that could be replayed; name the fixed run with --against RUN")
    return folder.parent


def remedy_of(incident: Incident, change: list[str]) -> tuple[Change, ...]:
    """The changes named by `change`, or else the remedy of the incident.

    Raises:
        UsageError: there are none, or one of them is unknown.
    """
    remedy = tuple(map(parse_change, change)) if change else incident.remedy
    if remedy is None:
        raise UsageError(
            "the diagnosis has no remedy yet: prove a cause first (postmortem prove), or name a change with --change"
        )
    return remedy


def remedy_target(
    file: Path,
    run: Path,
    diagnosis: Diagnosis,
    incident: Incident,
    *,
    program: str | None,
    trusted: bool,
    mode: Mode,
) -> ExperimentTarget:
    """What to replay in `run` to verify the `incident` of the `diagnosis` in `file`.

    Raises:
        UsageError: the diagnosis is about another run, or the run has changed since.
    """
    target = find_target(run, "verify", incident=incident.id, program=program, trusted=trusted, mode=mode)
    if plain(target.run.id) != diagnosis.run_id:
        raise UsageError(
            f"{plain(file)}: is about {plain(diagnosis.run_id)}, and the run beside it is {plain(target.run.id)}"
        )
    if target.incident.key != incident.key:
        raise UsageError(
            f"{plain(file)}: the run has changed since; draft it again: postmortem draft {plain(run, 1000)}"
        )
    return target
