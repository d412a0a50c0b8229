"""Writes the report's directory: report.md, diagnosis.json and panels/*.png, all of them or none.

A new directory is built beside its place and then renamed. Where an earlier draft exists, every file is written
completely first and then replaces its predecessor, so that foreign files, the user's notes and a shell whose working
directory this is all survive a re-draft.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from postmortem import small_file
from postmortem.atomic import (
    make_folder,
    move,
    names_in,
    put_folder,
    real_path,
    remove_file,
    saving,
    staged,
    write_new,
)
from postmortem.diagnosis import Diagnosis
from postmortem.errors import UnreadableInput, UsageError
from postmortem.jsonio import read_object
from postmortem.report.render import render
from postmortem.report.select import select_id

if TYPE_CHECKING:
    from postmortem.report.figures import DrawPanel

REPORT = "report.md"
DIAGNOSIS = "diagnosis.json"
BESIDE = ("replays", "probe", "proof.json", "checkpoints.json")  # what other commands write beside the report
MARKER = b"<!-- Yours: a re-draft rewrites everything above this section and keeps everything in it. -->"

_NOTES = re.compile(rb"^## Notes[ \t]*\r?$\n?|" + re.escape(MARKER), re.MULTILINE)


def default_out(path: Path) -> Path:
    """The directory for the report of the run at `path`: inside the run's directory, or beside its single file."""
    return path / "postmortem" if path.is_dir() else path.parent / f"{path.stem}.postmortem"


def run_folder(path: Path) -> Path:
    """The folder that the default directory must not leave by a link: the run's directory, or its single file's."""
    return path if path.is_dir() else path.parent


def to_bytes(diagnosis: Diagnosis) -> bytes:
    """The diagnosis as UTF-8 JSON, whatever a terminal's encoding is."""
    return diagnosis.to_json().encode()


def check_report(out: Path, *, within: Path | None = None) -> None:
    """Raise what `write_report` would raise about the place, before anything is computed for it."""
    with saving(out, within=within):
        _files_of_earlier_draft(real_path(out))


def write_report(
    diagnosis: Diagnosis, out: Path, *, draw: DrawPanel, incident: int | None = None, within: Path | None = None
) -> Path:
    """Write the report on `incident` (id; default: the worst) into `out`; the path of its report.md.

    `within` is the folder that `out` must not leave by a link: `run_folder` for the default place, None for a place
    that a person named. Raises UsageError where `out` contains something different from an earlier report, CannotWrite
    where it cannot be written.
    """
    number = select_id(diagnosis, number=incident)
    with saving(out, within=within):
        place = real_path(out)
        earlier = _files_of_earlier_draft(place)
        make_folder(place.parent)
        with staged(place, ".draft", folder=place if place.exists() else place.parent) as stage:
            _fill(stage, diagnosis, number, draw, _notes(place / REPORT))
            _put_in_place(stage, place, earlier)
    return place / REPORT


def _fill(stage: Path, diagnosis: Diagnosis, number: int | None, draw: DrawPanel, notes: bytes) -> None:
    from postmortem.report.figures import draw_incident, draw_quiet

    make_folder(stage / "panels")
    if number is None:
        drawn = replace(diagnosis, quiet_panels=draw_quiet(diagnosis.quiet_panels, stage, draw))
    else:
        incidents = [draw_incident(i, stage, draw) if i.id == number else i for i in diagnosis.incidents]
        drawn = replace(diagnosis, incidents=tuple(incidents))
    write_new(stage / DIAGNOSIS, to_bytes(drawn))
    write_new(stage / REPORT, render(drawn, incident=number).encode() + b"\n## Notes\n\n" + MARKER + notes)


def _put_in_place(stage: Path, out: Path, earlier: set[str]) -> None:
    """Move the files of a report to `out`: pictures, diagnosis, then the report that shows them. Where there is no
    earlier diagnosis, the new one comes first: it says whose the others are if this is killed halfway."""
    if not out.exists():
        put_folder(stage, out)
        return
    new = {path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file()}
    names = sorted(new, key=lambda name: (name == REPORT, name == DIAGNOSIS, name))
    if DIAGNOSIS not in earlier:
        names.remove(DIAGNOSIS)
        move(stage / DIAGNOSIS, out / DIAGNOSIS)
    make_folder(out / "panels")
    for name in names:
        move(stage / name, out / name)
    for name in earlier - new:
        remove_file(out / name)


def _files_of_earlier_draft(out: Path) -> set[str]:
    """The files of an earlier draft in `out`; UsageError where `out` contains something else."""
    if not out.exists():
        return set()
    if not out.is_dir():
        raise UsageError(f"{out}: is a file, not a directory. Choose another place with --out DIR.")
    if names_in(out).issubset(BESIDE):
        return set()
    hint = "Choose another place with --out DIR, or remove it yourself."
    try:
        raw = read_object(out / DIAGNOSIS)
    except (OSError, UnreadableInput):
        raw = {}
    tool = raw.get("tool")
    if not isinstance(tool, str) or not tool.startswith("postmortem"):
        raise UsageError(f"{out}: contains files that are not an earlier report, so nothing is changed. {hint}")
    names = {REPORT, DIAGNOSIS, *_pictures(raw)}
    for name in (*names, "panels"):
        if (out / name).is_symlink():
            raise UsageError(f"{out / name}: is a symbolic link, so writing it would change its target. {hint}")
    return names


def _pictures(raw: Any) -> Iterator[str]:
    """Every picture that a diagnosis of any schema version names."""
    from postmortem.report.build import PICTURE

    if isinstance(raw, dict):
        for key, value in cast("dict[str, Any]", raw).items():
            if key in ("image", "overview") and isinstance(value, str) and PICTURE.fullmatch(value):
                yield value
            yield from _pictures(value)
    elif isinstance(raw, list):
        for value in cast("list[Any]", raw):
            yield from _pictures(value)


def _notes(report: Path) -> bytes:
    """What the user wrote under "## Notes" in an earlier report, or under the marker if the heading was removed.

    Raises UnreadableInput where there is no regular file, or a huge one: nothing may replace what was not read.
    """
    text = small_file.read_bytes(report) if report.exists() else b""
    begin = _NOTES.search(text)
    after = text[begin.end() :].lstrip(b"\r\n").removeprefix(MARKER) if begin else b""
    return after if after[:1] in (b"\r", b"\n") else b"\n\n" + after
