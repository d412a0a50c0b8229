"""Opening the logs that a command names: which of several runs in one log is meant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from postmortem.errors import UnreadableInput
from postmortem.text import plain

if TYPE_CHECKING:
    from postmortem.detectors import Mode
    from postmortem.run import Run
    from postmortem.sources import SeveralRuns

_MOST_SEARCHED = 100  # runs of one log that are searched for the gravest incident

NamedRunOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--run", metavar="NAME", help="Which run of a log that contains several. [default: the gravest]"),
]


def open_gravest(log: Path, mapping: Mapping[str, str], source: str | None, name: str | None, mode: Mode) -> Run:
    """The run of a log that has this name, or of several the one with the gravest incident, with a note about them."""
    from postmortem.sources import SeveralRuns, open_run

    try:
        return open_run(log, mapping, source, run=name)
    except SeveralRuns as several:
        if name is not None or len(several.runs) > _MOST_SEARCHED:
            raise
        return _gravest(several, mode)


def _gravest(several: SeveralRuns, mode: Mode) -> Run:
    from postmortem.pipeline import gravest
    from postmortem.run.naming import name_list

    runs: list[Run] = []
    for read in several.runs.values():
        try:
            runs.append(read())
        except UnreadableInput:  # the others may say what is asked
            continue
    if not runs:
        raise several
    chosen = gravest(runs, mode)
    others = name_list(name for name in several.runs if plain(name) != chosen.id)
    why = "the one with the gravest incident, if any" if len(runs) > 1 else "the only one that can be read"
    this = f"{several.file}: {len(several.runs)} runs in one log: this is {chosen.id}, {why}"
    chosen.notes = (f"{this}; --run NAME takes another: {others}", *chosen.notes)
    return chosen
