"""Sources read runs: one file per log format, found by discovery.

A source says how sure it is that a path is in its format, and why (`FormatMatch`); the surest one reads the path. It
has its own column names and its step rule. A new format is one public file here that contains `SOURCE`, made by
`row_source` where the format is plain rows in one file; other distributions add theirs by an entry point of the group
`postmortem.sources`. A source is made of the names in `__all__` and the tables of `postmortem.run`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from postmortem.errors import UnreadableInput, UsageError
from postmortem.run import Run
from postmortem.sources._assemble import assemble, label_names, row_source
from postmortem.sources._copies import STDIN, STDIN_NAME, Copy, copy_of, shown_path
from postmortem.sources._nearest import nearest
from postmortem.sources._registry import best_matches, only_source, sources
from postmortem.sources._several_runs import SeveralRuns, TableOfRuns
from postmortem.sources._source import Candidate, Confidence, DerivedSteps, FormatMatch, Source, SourceTable, by_ending
from postmortem.sources._stitch import continuation, read_piece, stitch
from postmortem.text import plain

__all__ = [
    "Candidate",
    "Confidence",
    "DerivedSteps",
    "FormatMatch",
    "SeveralRuns",
    "Source",
    "SourceTable",
    "TableOfRuns",
    "assemble",
    "by_ending",
    "label_names",
    "open_run",
    "row_source",
    "sources",
]


def open_run(
    path: str | Path | Sequence[str | Path],
    mapping: Mapping[str, str] | None = None,
    source: str | None = None,
    *,
    run: str | None = None,
) -> Run:
    """Read the run at `path`: a run directory, a bare folder with metrics.csv|jsonl|parquet, or one such file, also
    gzipped; `-` is the standard input. Several paths, in the order of time, are one run: rows of steps that a later one
    has as well are a discarded segment.

    `mapping` (canonical → the log's own name) comes from --map. `source` names the format; without it, the surest
    source reads the path. `run` names one of the runs that a log contains.

    Raises:
        UnreadableInput: no such path, nothing readable, no known format (lists what was tried), or several formats that
            are equally sure (names them).
        SeveralRuns: the log contains several runs, and `run` is None; `runs` of the error lists and reads them.
        UsageError: `mapping` names a column that the log does not have, `source` is no source, the log has no `run` of
            this name, or the standard input is a terminal.
        CannotWrite: there is no room for the temporary copy of a gzipped log.

    Example:
        >>> pm.open_run("sample_runs/19-spike-001").series("loss")
        <Series loss: 2,000 rows, steps 0–1999>
    """
    paths = [Path(path)] if isinstance(path, (str, Path)) else [Path(each) for each in path]
    if not paths:
        raise UsageError("no log: give the path of one")
    names = dict(mapping or {})
    try:
        opened = (
            _naming(paths[0], partial(_open, paths[0], names, source))
            if len(paths) == 1
            else _stitched(paths, names, source)
        )
    except SeveralRuns as several:
        if run is None:
            raise
        return several.read(run)
    if run is not None and run != opened.id:
        raise UsageError(f"--run {plain(run, 60)}: {plain(paths[0], 1000)} contains only one run, {opened.id}")
    return opened


def _stitched(paths: Sequence[Path], mapping: dict[str, str], source: str | None) -> Run:
    first = paths[0]
    pieces = [_naming(each, partial(_open, each, mapping, source, first)) for each in paths]
    return _naming(first, partial(stitch, pieces, mapping))


def _naming(path: Path, read: Callable[[], Run]) -> Run:
    """What `read` reads. Its messages, also about each of several runs, get the path."""
    try:
        return read()
    except UnreadableInput as error:
        error.args = (_located(str(error), path),)
        if isinstance(error, SeveralRuns):
            error.wrap(partial(_naming, path))
        raise


def _located(message: str, path: Path) -> str:
    """A message about a file of the run, with the path that the user gave: in a loop over runs, it says which run."""
    run_path = plain(path, 1000)
    if message.startswith(STDIN_NAME) and run_path == STDIN:
        return message
    if message.startswith(run_path):
        return message
    base = run_path if path.is_dir() else plain(path.parent, 1000)
    return message if base == "." else f"{base}/{message.removeprefix(path.name + '/') if path.is_dir() else message}"


def _open(path: Path, mapping: dict[str, str], source: str | None, first: Path | None = None) -> Run:
    """The run at `path`; with `first`, a piece of the run that begins with this log."""
    try:
        copy = (None if first in (None, path) else continuation(first, path)) or copy_of(path)
        if copy is None:
            return _read(path, mapping, source, is_piece=first is not None)
        return _of_copy(copy, path, partial(_read, copy.path, mapping, source, is_piece=first is not None))
    except OSError as error:
        raise UnreadableInput(f"{_reason(error)}.", file=plain(error.filename or path)) from error
    except UnicodeDecodeError as error:
        raise UnreadableInput(f"is not UTF-8 text (byte {error.start}).", file=plain(path)) from error
    except ValueError as error:
        if "null byte" not in str(error) and "null character" not in str(error):
            raise
        raise UnreadableInput("no such file or directory.", file=plain(path)) from error


def _of_copy(copy: Copy, path: Path, read: Callable[[], Run]) -> Run:
    """What `read` reads from a temporary copy of the log at `path`."""
    try:
        run = read()
    except (UnreadableInput, UsageError) as error:
        error.args = (_of_original(str(error), copy, path),)
        if isinstance(error, SeveralRuns):
            error.wrap(partial(_of_copy, copy, path))
        raise
    run.path, run.held, run.notes = shown_path(path), (copy, run.held), (*copy.notes, *run.notes)
    return run


def _of_original(message: str, copy: Copy, path: Path) -> str:
    """A message about a copy as one about the file that was copied."""
    original = STDIN_NAME if str(path) == STDIN else plain(path, 1000)
    message = message.replace(plain(copy.path, 1000), original)
    name = plain(copy.path.name, 120)
    return f"{original}{message.removeprefix(name)}" if message.startswith(f"{name}:") else message


def _read(path: Path, mapping: dict[str, str], source: str | None, *, is_piece: bool) -> Run:
    path.stat()
    if path.is_dir() and not any(path.iterdir()):
        raise UnreadableInput("the folder is empty.", file=plain(path))
    chosen = _source_of(path) if source is None else _source_named(source)
    return read_piece(chosen, path, mapping) if is_piece else chosen.read(path, mapping)


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
