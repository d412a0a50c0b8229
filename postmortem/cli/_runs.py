"""Opening the logs that a command names: one run may be in several logs, and several runs in one log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from postmortem.cli._terminal import stage
from postmortem.errors import UnreadableInput, UsageError
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

NamedRunsOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--run", metavar="NAME", help="Which run of a log that contains several; once for each such log."),
]


def log_paths(words: Sequence[Path]) -> list[Path]:
    """The logs that the words name: a path, or several with commas between them where no file has that name."""
    paths: list[Path] = []
    for word in words:
        several = "," in str(word) and not _exists(word)
        paths += [Path(part) for part in str(word).split(",") if part] if several else [word]
    return paths


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for any file
        return False


def open_gravest(
    logs: Sequence[Path], mapping: Mapping[str, str], source: str | None, name: str | None, mode: Mode
) -> Run:
    """The run in `logs`; where they contain several, the one with this name, or the one with the gravest incident and a
    note about the others."""
    from postmortem.sources import SeveralRuns, open_run

    try:
        return open_run(logs, mapping, source, run=name)
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


def open_all(words: Sequence[Path], mappings: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[Run]:
    """The runs to compare, one a word. Of a log that contains several, the next of `names` is read; where there is no
    other log, all of `names`, or else all that it contains.

    Raises:
        UsageError: a name is left over.
    """
    from postmortem.sources import SeveralRuns, open_run

    left = list(names)
    runs: list[Run] = []
    for word, mapping in zip(words, mappings, strict=True):
        logs = log_paths([word])
        with stage(f"Reading {word}"):
            try:
                runs.append(open_run(logs, mapping))
            except SeveralRuns as several:
                if len(words) == 1:
                    wanted, left = left or [*several.runs], []
                    runs += [several.read(name) for name in wanted]
                elif left:
                    runs.append(several.read(left.pop(0)))
                else:
                    raise
    if left:
        raise UsageError(f"--run {plain(left[0], 60)}: no log is left that contains several runs")
    return runs
