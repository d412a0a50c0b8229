"""A diff's files in a directory of their own: each is wholly there or not at all, the page last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from postmortem.atomic import write_bytes
from postmortem.errors import UsageError
from postmortem.text import plain

JSON = "diff.json"


def write_files(out: Path, files: Mapping[str, bytes | str]) -> Path:
    """Write `files` (name → content) into `out`, in their order; the path of the last one.

    Files of other names stay as they are. Raises UsageError where `out` holds one of the names and no earlier diff, or
    cannot be written.
    """
    shown = plain(out, 1000)
    hint = "Choose another place with --out DIR."
    if out.exists() and not out.is_dir():
        raise UsageError(f"{shown}: is a file, not a directory. {hint}")
    taken = [name for name in files if (out / name).is_symlink() or (out / name).exists()]
    if taken and (any((out / name).is_symlink() for name in files) or not _earlier(out / JSON)):
        raise UsageError(f"{shown}: holds {taken[0]}, which no diff wrote, so it is left as it is. {hint}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes(out / name, content.encode("utf-8", "replace") if isinstance(content, str) else content)
    except OSError as error:
        raise UsageError(f"{shown}: cannot be written ({error.strerror or error}). {hint}") from error
    return out / list(files)[-1]


def _earlier(file: Path) -> bool:
    """Whether `file` is the JSON of an earlier diff."""
    try:
        raw: Any = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    tool = raw.get("tool") if isinstance(raw, dict) else None
    return isinstance(tool, str) and tool.startswith("postmortem")
