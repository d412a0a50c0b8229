"""Sources read runs: one file per log format, found by discovery.

A source says how sure it is that a path is in its format, and why (`FormatMatch`); the surest one reads the path. It
has its own column names and its step rule. A new format is one public file here that contains `SOURCE`, made by
`row_source` where the format is plain rows in one file; other distributions add theirs by an entry point of the group
`postmortem.sources`. A source is made of the names in `__all__` and the tables of `postmortem.run`.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

from postmortem.errors import UnreadableInput, UsageError
from postmortem.run import Run
from postmortem.sources._assemble import assemble, label_names, row_source
from postmortem.sources._nearest import nearest
from postmortem.sources._registry import best_matches, only_source, sources
from postmortem.sources._source import Candidate, Confidence, DerivedSteps, FormatMatch, Source, SourceTable, by_ending
from postmortem.text import plain

__all__ = [
    "Candidate",
    "Confidence",
    "DerivedSteps",
    "FormatMatch",
    "Source",
    "SourceTable",
    "assemble",
    "by_ending",
    "label_names",
    "open_run",
    "row_source",
    "sources",
]


def open_run(path: str | Path, mapping: Mapping[str, str] | None = None, source: str | None = None) -> Run:
    """Read the run at `path`: a run directory, a bare folder with metrics.csv|jsonl|parquet, or one such file.

    `mapping` (canonical → the log's own name) comes from --map. `source` names the format; without it, the surest
    source reads the path.

    Raises:
        UnreadableInput: no such path, nothing readable, no known format (lists what was tried), or several formats that
            are equally sure (names them).
        UsageError: `mapping` names a column that the log does not have, or `source` is no source.

    Example:
        >>> pm.open_run("sample_runs/19-spike-001").series("loss")
        <Series loss: 2,000 rows, steps 0–1999>
    """
    path = Path(path)
    try:
        return _open(path, dict(mapping or {}), source)
    except UnreadableInput as error:
        error.args = (_located(str(error), path),)
        raise


def _located(message: str, path: Path) -> str:
    """A message about a file of the run, with the path that the user gave: in a loop over runs, it says which run."""
    run_path = plain(path, 1000)
    if message.startswith(run_path):
        return message
    base = run_path if path.is_dir() else plain(path.parent, 1000)
    return message if base == "." else f"{base}/{message.removeprefix(path.name + '/') if path.is_dir() else message}"


def _open(path: Path, mapping: dict[str, str], source: str | None) -> Run:
    try:
        path.stat()
        if path.is_dir() and not any(path.iterdir()):
            raise UnreadableInput("the folder is empty.", file=plain(path))
        return (_source_of(path) if source is None else _source_named(source)).read(path, mapping)
    except OSError as error:
        raise UnreadableInput(f"{_reason(error)}.", file=plain(error.filename or path)) from error
    except UnicodeDecodeError as error:
        raise UnreadableInput(f"is not UTF-8 text (byte {error.start}).", file=plain(path)) from error
    except ValueError as error:
        if "null byte" not in str(error) and "null character" not in str(error):
            raise
        raise UnreadableInput("no such file or directory.", file=plain(path)) from error


def _source_of(path: Path) -> Source:
    candidate = Candidate(path)
    matches = best_matches(candidate)
    if not matches:
        tried = "; ".join(source.accepts for source in sources() if source.accepts)
        what, then = nearest(candidate)
        raise UnreadableInput(f"no known kind of run: {what}.", file=plain(path), hint=f"{then} (Tried: {tried})")
    return only_source(matches, path)


def _source_named(name: str) -> Source:
    source = next((source for source in sources() if source.name == name), None)
    if source is None:
        names = ", ".join(source.name for source in sources())
        raise UsageError(f"--source {plain(name, 60)}: no format has this name; there are {plain(names, 1000)}")
    return source


def _reason(error: OSError) -> str:
    reasons = {
        errno.ENOENT: "no such file or directory",
        errno.EACCES: "permission denied",
        errno.ENOTDIR: "is no folder",
    }
    return reasons.get(error.errno or 0, plain(error.strerror or error, 120))
