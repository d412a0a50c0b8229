"""Writes the report's directory: report.md, diagnosis.json and panels/*.png, all of them or none.

A new directory is built beside its place and then renamed. Where an earlier draft exists, every file is written
completely first and then replaces its predecessor, so that foreign files, the user's notes and a shell whose working
directory this is all survive a re-draft.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from postmortem.atomic import umask
from postmortem.diagnosis import Diagnosis
from postmortem.errors import UnreadableInput, UsageError
from postmortem.jsonio import read_object
from postmortem.report.build import PICTURE
from postmortem.report.render import render
from postmortem.report.select import select_id

if TYPE_CHECKING:
    from postmortem.report.figures import DrawPanel

REPORT = "report.md"
DIAGNOSIS = "diagnosis.json"
EXPERIMENTS = ("replays", "probe", "proof.json")  # files that replays write beside the report
MARKER = b"<!-- Yours: a re-draft rewrites everything above this section and keeps everything in it. -->"

_NOTES = re.compile(rb"^## Notes[ \t]*\r?$\n?|" + re.escape(MARKER), re.MULTILINE)


def default_out(path: Path) -> Path:
    """The directory for the report of the run at `path`: inside the run's directory, or beside its single file."""
    return path / "postmortem" if path.is_dir() else path.parent / f"{path.stem}.postmortem"


def to_bytes(diagnosis: Diagnosis) -> bytes:
    """The diagnosis as UTF-8 JSON; half a surrogate pair in a name, which UTF-8 cannot encode, becomes its escape."""
    return diagnosis.to_json().encode("utf-8", "backslashreplace")


def write_report(diagnosis: Diagnosis, out: Path, *, draw: DrawPanel, incident: int | None = None) -> Path:
    """Write the report on `incident` (id; default: the worst) into `out`; the path of its report.md.

    Raises UsageError where `out` contains something different from an earlier report, or cannot be written.
    """
    from postmortem.report.figures import draw_incident, draw_quiet

    number = select_id(diagnosis, number=incident)
    out = out.resolve()
    earlier = _files_of_earlier_draft(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".draft", dir=out if out.exists() else out.parent))
    except OSError as error:
        raise _write_error(out, error) from error
    try:
        (stage / "panels").mkdir()
        if number is None:
            drawn = replace(diagnosis, quiet_panels=draw_quiet(diagnosis.quiet_panels, stage, draw))
        else:
            incidents = [draw_incident(i, stage, draw) if i.id == number else i for i in diagnosis.incidents]
            drawn = replace(diagnosis, incidents=tuple(incidents))
        (stage / DIAGNOSIS).write_bytes(to_bytes(drawn))
        text = render(drawn, incident=number).encode()
        (stage / REPORT).write_bytes(text + b"\n## Notes\n\n" + MARKER + _notes(out / REPORT))
        _put_in_place(stage, out, earlier)
    except OSError as error:
        raise _write_error(out, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return out / REPORT


def _put_in_place(stage: Path, out: Path, earlier: set[str]) -> None:
    if not out.exists():
        stage.chmod(0o777 & ~umask())
        stage.rename(out)
        return
    (out / "panels").mkdir(exist_ok=True)
    new = {path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file()}
    for name in sorted(new, key=lambda n: (n == REPORT, n == DIAGNOSIS, n)):  # pictures, diagnosis, then the report
        (stage / name).replace(out / name)
    for name in earlier - new:
        (out / name).unlink(missing_ok=True)


def _files_of_earlier_draft(out: Path) -> set[str]:
    """The files of an earlier draft in `out`; UsageError where `out` contains something else."""
    if not out.exists():
        return set()
    if not out.is_dir():
        raise UsageError(f"{out}: is a file, not a directory. Choose another place with --out DIR.")
    if all(path.name in EXPERIMENTS for path in out.iterdir()):
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
    if isinstance(raw, dict):
        for key, value in cast("dict[str, Any]", raw).items():
            if key in ("image", "overview") and isinstance(value, str) and PICTURE.fullmatch(value):
                yield value
            yield from _pictures(value)
    elif isinstance(raw, list):
        for value in cast("list[Any]", raw):
            yield from _pictures(value)


def _notes(report: Path) -> bytes:
    """What the user wrote under "## Notes" in an earlier report, or under the marker if the heading was removed."""
    text = report.read_bytes() if report.is_file() else b""
    begin = _NOTES.search(text)
    after = text[begin.end() :].lstrip(b"\r\n").removeprefix(MARKER) if begin else b""
    return after if after[:1] in (b"\r", b"\n") else b"\n\n" + after


def _write_error(out: Path, error: OSError) -> UsageError:
    return UsageError(f"{out}: cannot be written ({error.strerror or error}). Choose another place with --out DIR.")
