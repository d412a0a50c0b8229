"""Appends one line per incident to lessons.md, once. The file is the user's: nothing already in it is changed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from urllib.parse import quote

from postmortem import small_file
from postmortem.atomic import append, saving
from postmortem.diagnosis import Diagnosis, Incident
from postmortem.errors import UsageError
from postmortem.report.markdown import escape
from postmortem.report.select import select_incident

_OPTION = "--lessons PATH"


def check_lessons(path: Path, *, within: Path | None = None) -> None:
    """Raise what `add_lesson` would raise about the place, before anything else is written."""
    with saving(path, within=within, option=_OPTION):
        _read(path)
        target = path if path.exists() else path.parent
        if not target.exists():
            raise UsageError(
                f"{path}: the directory {path.parent} does not exist. Create it, or choose another {_OPTION}."
            )
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def add_lesson(
    diagnosis: Diagnosis,
    path: Path,
    *,
    incident: int | None = None,
    report: Path | None = None,
    within: Path | None = None,
) -> bool:
    """Append the lesson of `incident` to `path`, with a link to `report`; False where there is no new lesson.

    Two lessons are the same if run, onset step and text are: a new date or another link makes no new lesson. The line
    is appended in one write, so the earlier content stays the same byte for byte, also if the write fails. `within` is
    the folder that `path` must not leave by a link, None where a person named it. Raises UsageError where `path` is no
    text file, CannotWrite where it cannot be written.
    """
    shown = select_incident(diagnosis, incident)
    if shown is None or not shown.lesson:
        return False
    with saving(path, within=within, option=_OPTION):
        return _add(path, diagnosis, shown, report)


def _add(path: Path, diagnosis: Diagnosis, shown: Incident, report: Path | None) -> bool:
    key = f"{escape(diagnosis.run_id)} · step {shown.onset_step} · {escape(shown.lesson)}"
    before = _read(path)
    if any(_key(line) == key for line in before.decode().splitlines()):
        return False
    link = f" ([report]({_link(report, path)}))" if report else ""
    newline = "\r\n" if b"\r\n" in before else "\n"
    line = f"- {diagnosis.run.date or 'undated'} · {key}{link}{newline}"
    append(path, (("" if not before or before.endswith(b"\n") else newline) + line).encode())
    return True


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise UsageError(f"{path}: is a directory. Name a file with --lessons PATH.")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: is not a regular file. Name one with --lessons PATH.")
    data = small_file.read_bytes(path) if path.exists() else b""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path}:{line}: is not UTF-8, so nothing is appended. Convert it, or use --lessons PATH."
        ) from error
    return data


def _key(line: str) -> str:
    """Run, step and lesson of a line, without date and link."""
    body = line.rstrip().removeprefix("- ").partition(" · ")[2]
    return body.rpartition(" ([report](")[0] or body if body.endswith("))") else body


def _link(report: Path, lessons: Path) -> str:
    folder = lessons.resolve().parent
    try:
        relative = Path(os.path.relpath(report.resolve(), folder))
    except ValueError:  # another drive
        relative = report.resolve()
    return quote(relative.as_posix(), safe="/.-_~:")
