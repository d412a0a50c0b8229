"""Reading runs, whoever wrote them: one file per format, found by discovery."""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from postmortem.discovery import discover
from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.sources._source import Source
from postmortem.text import plain

__all__ = ["Source", "open_run", "sources"]


@cache
def sources() -> tuple[Source, ...]:
    """Every source, in order of its module's name."""
    return discover(sys.modules[__name__], "SOURCE", Source)


def open_run(path: str | Path, mapping: Mapping[str, str] | None = None) -> Run:
    """Read the run at `path`: a run directory, a bare folder with metrics.csv|jsonl|parquet, or one such file.

    `mapping` (canonical → the log's own name) comes from --map.

    Raises:
        UnreadableInput: nothing there, nothing readable, or no format that is known; lists what was tried.
        UsageError: `mapping` names a column that is not there.

    Example:
        >>> pm.open_run("sample_runs/19-spike-001").series("loss")
        <Series loss: 2,000 rows, steps 0–1999>
    """
    path = Path(path)
    try:
        return _open(path, dict(mapping or {}))
    except UnreadableInput as error:
        error.args = (_located(str(error), path),)
        raise


def _located(message: str, path: Path) -> str:
    """A message about a file of the run, with the path that the user gave: in a loop over runs it says which."""
    shown = plain(path, 1000)
    if message.startswith(shown):
        return message
    base = shown if path.is_dir() else plain(path.parent, 1000)
    return message if base == "." else f"{base}/{message.removeprefix(path.name + '/') if path.is_dir() else message}"


def _open(path: Path, mapping: dict[str, str]) -> Run:
    try:
        path.stat()
        if path.is_dir() and not any(path.iterdir()):
            raise UnreadableInput("the folder is empty.", file=plain(path))
        for source in sources():
            if source.sniff(path):
                return source.read(path, mapping)
    except OSError as error:
        raise UnreadableInput(f"{_reason(error)}.", file=plain(error.filename or path)) from error
    except ValueError as error:
        if "null byte" not in str(error) and "null character" not in str(error):
            raise
        raise UnreadableInput("no such file or directory.", file=plain(path)) from error
    tried = "; ".join(source.accepts for source in sources())
    raise UnreadableInput("no known kind of run.", file=plain(path), hint=f"Tried: {tried}")


def _reason(error: OSError) -> str:
    reasons = {errno.ENOENT: "no such file or directory", errno.EACCES: "permission denied"}
    return reasons.get(error.errno or 0, plain(error.strerror or error, 120))
