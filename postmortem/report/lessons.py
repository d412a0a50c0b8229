"""Enters the lessons of incidents into lessons.md, one process at a time, and all of the file or nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from postmortem import small_file
from postmortem.atomic import real_path, saving, write_bytes
from postmortem.diagnosis import Diagnosis, Incident
from postmortem.errors import UsageError
from postmortem.exclusive import exclusive
from postmortem.report.select import select_incident
from postmortem.report.wording import as_sentence

if TYPE_CHECKING:
    from postmortem.report.lesson_book import Lesson

_OPTION = "--lessons PATH"


def check_lessons(path: Path, *, within: Path | None = None) -> None:
    """Raise what `add_lesson` would raise about the place, before anything else is written."""
    with saving(path, within=within, option=_OPTION):
        _read(path)
        if not path.parent.exists():
            raise UsageError(
                f"{path}: the directory {path.parent} does not exist. Create it, or choose another {_OPTION}."
            )
        place = real_path(path)
        for written in (place.parent, place):
            if written.exists() and not os.access(written, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def add_lesson(
    diagnosis: Diagnosis,
    path: Path,
    *,
    run: Path,
    incident: int | None = None,
    report: Path | None = None,
    within: Path | None = None,
    undecided: bool = False,
) -> bool:
    """Enter the lesson of `incident` into the notebook `path`; False where it stays as it is, see `lesson_book.enter`.

    `run` is what was diagnosed, `report` its report, to which the line links. `within` is the folder that `path` must
    not leave by a link, None where a person named it. `undecided`: an incident whose cause is open is entered, too.
    Raises UsageError where `path` is no text file, CannotWrite where it cannot be written.
    """
    shown = select_incident(diagnosis, incident)
    if shown is None or not shown.lesson:
        return False
    with saving(path, within=within, option=_OPTION):
        _read(path)
        place = real_path(path)  # where a person's link leads: the link stays
        lesson = _lesson(diagnosis, shown, run, report, place)
        with exclusive(place, within=within):
            from postmortem.report.lesson_book import enter

            text = enter(_read(place), lesson, undecided=undecided)
            if text is not None:
                write_bytes(place, text.encode(), within=within)
    return text is not None


def _lesson(diagnosis: Diagnosis, incident: Incident, run: Path, report: Path | None, place: Path) -> Lesson:
    """The entry of `incident` in the notebook `place`. Without a root cause, its sentence is what was observed."""
    folder, key = _seen_from(place, run), incident.key
    from postmortem.report.lesson_book import Lesson

    return Lesson(
        run_id=diagnosis.run_id,
        folder=real_path(run).name if folder == "." else folder,
        date=diagnosis.run.date or "",
        incident=f"{key.kind} {key.onset_step} {key.attempt} {key.discarded}",
        onset_step=incident.onset_step,
        verdict=incident.verdict,
        sentence=incident.root_cause or " ".join(map(as_sentence, filter(None, (incident.summary, incident.proof)))),
        advice=incident.lesson,
        link="" if report is None else quote(_seen_from(place, report), safe="/.-_~:"),
    )


def _seen_from(place: Path, path: Path) -> str:
    """`path` relative to the folder of `place`, with forward slashes."""
    real = real_path(path)
    try:
        return Path(os.path.relpath(real, place.parent)).as_posix()
    except ValueError:  # another drive
        return real.as_posix()


def _read(path: Path) -> str:
    if path.is_dir():
        raise UsageError(f"{path}: is a directory. Name a file with --lessons PATH.")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: is not a regular file. Name one with --lessons PATH.")
    data = small_file.read_bytes(path) if path.exists() else b""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path}:{line}: is not UTF-8, so nothing is entered. Convert it, or use --lessons PATH."
        ) from error
