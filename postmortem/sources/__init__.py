"""Reading runs, whoever wrote them: one file per format, found by discovery.

A source says how sure it is of a path and why (`Sniffed`), and the surest reads it. It brings its own column names and
its step rule. A new format is one public file here that holds `SOURCE`, made by `row_source` where it is plain rows in
one file; other distributions add theirs by an entry point of the group `postmortem.sources`. What stands in `__all__`
is what a source is made of, beside the tables of `postmortem.run`.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

from postmortem.errors import UnreadableInput, UsageError
from postmortem.run import Run
from postmortem.sources._assemble import assemble, label_names, row_source
from postmortem.sources._registry import decided, sources, surest
from postmortem.sources._source import Candidate, Confidence, CountedSteps, Sniffed, Source, SourceTable, by_ending
from postmortem.text import plain

__all__ = [
    "Candidate",
    "Confidence",
    "CountedSteps",
    "Sniffed",
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

    `mapping` (canonical → the log's own name) comes from --map. `source` names the format, and nothing is sniffed.

    Raises:
        UnreadableInput: nothing there, nothing readable, no format that is known (lists what was tried), or several
            that are equally sure (names them).
        UsageError: `mapping` names a column that is not there, or `source` is no source.

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
    """A message about a file of the run, with the path that the user gave: in a loop over runs it says which."""
    shown = plain(path, 1000)
    if message.startswith(shown):
        return message
    base = shown if path.is_dir() else plain(path.parent, 1000)
    return message if base == "." else f"{base}/{message.removeprefix(path.name + '/') if path.is_dir() else message}"


def _open(path: Path, mapping: dict[str, str], source: str | None) -> Run:
    try:
        path.stat()
        if path.is_dir() and not any(path.iterdir()):
            raise UnreadableInput("the folder is empty.", file=plain(path))
        return (_sniffed(path) if source is None else _named(source)).read(path, mapping)
    except OSError as error:
        raise UnreadableInput(f"{_reason(error)}.", file=plain(error.filename or path)) from error
    except UnicodeDecodeError as error:
        raise UnreadableInput(f"is not UTF-8 text (byte {error.start}).", file=plain(path)) from error
    except ValueError as error:
        if "null byte" not in str(error) and "null character" not in str(error):
            raise
        raise UnreadableInput("no such file or directory.", file=plain(path)) from error


def _sniffed(path: Path) -> Source:
    claims = surest(Candidate(path))
    if not claims:
        tried = "; ".join(source.accepts for source in sources() if source.accepts)
        raise UnreadableInput("no known kind of run.", file=plain(path), hint=f"Tried: {tried}")
    return decided(claims, path)


def _named(name: str) -> Source:
    found = next((source for source in sources() if source.name == name), None)
    if found is None:
        known = ", ".join(source.name for source in sources())
        raise UsageError(f"--source {plain(name, 60)}: no format is called so; there are {plain(known, 1000)}")
    return found


def _reason(error: OSError) -> str:
    reasons = {
        errno.ENOENT: "no such file or directory",
        errno.EACCES: "permission denied",
        errno.ENOTDIR: "is no folder",
    }
    return reasons.get(error.errno or 0, plain(error.strerror or error, 120))
