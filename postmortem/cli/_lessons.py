"""The notebook that `draft` and `prove` keep: which file it is, and whether the command may write it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from postmortem.atomic import real_path

if TYPE_CHECKING:
    from postmortem.diagnosis import Diagnosis

_DEFAULT = Path("lessons.md")

LessonsOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--lessons", metavar="PATH", help="Keep the lesson in this notebook [default: ./lessons.md]."),
]
UndecidedOption: TypeAlias = Annotated[
    bool, typer.Option("--undecided", help="Enter an undecided incident in the notebook, too.")
]


@dataclass(frozen=True)
class Notebook:
    """The notebook of one command; `within` and `undecided` are those of `report.add_lesson`."""

    path: Path
    within: Path | None
    undecided: bool

    def enter(self, diagnosis: Diagnosis, run: Path, incident: int | None, written: Path | None) -> bool:
        """Enter the lesson of an incident of `run`, whose report is `written`; False where nothing changes."""
        from postmortem.report import add_lesson

        return add_lesson(
            diagnosis,
            self.path,
            run=run,
            incident=incident,
            report=written,
            within=self.within,
            undecided=self.undecided,
        )


def open_notebook(lessons: Path | None, run: Path, *, undecided: bool, as_json: bool) -> Notebook | None:
    """The notebook that the options name, after a check of its place; None where --json asks for no new files."""
    from postmortem.report import check_lessons

    path = lessons or (None if as_json else _DEFAULT)
    if path is None:
        return None
    within = None if lessons else _run_around(path, run)  # a stranger's run may be the current directory
    check_lessons(path, within=within)
    return Notebook(path, within, undecided)


def _run_around(file: Path, run: Path) -> Path | None:
    """The directory of `run` if `file` is in it, else None."""
    return run if real_path(file.absolute().parent).is_relative_to(real_path(run)) else None
