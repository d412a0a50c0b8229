"""Writes the files of a diff into a directory, each completely or not at all, the page last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from postmortem.atomic import write_bytes
from postmortem.errors import UnreadableInput, UsageError
from postmortem.jsonio import read_object
from postmortem.text import plain

JSON = "diff.json"


def write_files(out: Path, files: Mapping[str, bytes | str]) -> Path:
    """Write `files` (name → content) into `out`, in their order; the path of the last one.

    Files with other names are not touched. Raises UsageError where `out` contains one of the names but no earlier diff,
    or cannot be written.
    """
    shown = plain(out, 1000)
    hint = "Choose another place with --out DIR."
    if out.exists() and not out.is_dir():
        raise UsageError(f"{shown}: is a file, not a directory. {hint}")
    existing = [name for name in files if (out / name).is_symlink() or (out / name).exists()]
    if existing and (any((out / name).is_symlink() for name in files) or not _is_diff(out / JSON)):
        raise UsageError(f"{shown}: contains {existing[0]}, which no diff wrote, so nothing is changed. {hint}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes(out / name, content.encode("utf-8", "replace") if isinstance(content, str) else content)
    except OSError as error:
        raise UsageError(f"{shown}: cannot be written ({error.strerror or error}). {hint}") from error
    return out / list(files)[-1]


def _is_diff(file: Path) -> bool:
    """Whether `file` is the JSON of an earlier diff."""
    try:
        tool = read_object(file).get("tool")
    except (OSError, UnreadableInput):
        return False
    return isinstance(tool, str) and tool.startswith("postmortem")
