"""Writes the files of a diff into a directory, each completely or not at all, the page last."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from postmortem.atomic import make_folder, saving, write_bytes
from postmortem.errors import UnreadableInput, UsageError
from postmortem.jsonio import read_object
from postmortem.text import plain

JSON = "diff.json"


def write_files(out: Path, files: Mapping[str, bytes | str]) -> Path:
    """Write `files` (name → content) into `out`, in their order; the path of the last one.

    Files with other names are not touched. Raises UsageError where `out` contains one of the names but no earlier diff,
    CannotWrite where it cannot be written.
    """
    with saving(out):
        _check(out, files)
        make_folder(out)
        for name, content in files.items():
            write_bytes(out / name, content.encode("utf-8", "replace") if isinstance(content, str) else content)
    return out / list(files)[-1]


def _check(out: Path, names: Collection[str]) -> None:
    shown = plain(out, 1000)
    hint = "Choose another place with --out DIR."
    if out.exists() and not out.is_dir():
        raise UsageError(f"{shown}: is a file, not a directory. {hint}")
    existing = [name for name in names if (out / name).is_symlink() or (out / name).exists()]
    if existing and (any((out / name).is_symlink() for name in names) or not _is_diff(out / JSON)):
        raise UsageError(f"{shown}: contains {existing[0]}, which no diff wrote, so nothing is changed. {hint}")


def _is_diff(file: Path) -> bool:
    """Whether `file` is the JSON of an earlier diff."""
    try:
        tool = read_object(file).get("tool")
    except (OSError, UnreadableInput):
        return False
    return isinstance(tool, str) and tool.startswith("postmortem")
