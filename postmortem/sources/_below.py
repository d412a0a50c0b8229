"""The logs in a folder, and in the folders one level down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

from postmortem.run import Run
from postmortem.run.naming import name_list
from postmortem.sources._copies import unpacked_name
from postmortem.sources._registry import SourceMatch, best_matches, only_source
from postmortem.sources._source import Candidate, Confidence

_MOST_FOLDERS, _MOST_FILES = 300, 3_000
"""Folders below, and files in all of them or in a folder itself, that are looked at: a millisecond or two each."""

_FIRST = ("metrics", "batches")


def log_stem(path: Path) -> str:
    """A file's name without its ending, and without that of gzip."""
    return Path(unpacked_name(path.name)).stem


def row_logs(folder: Path, most: int = _MOST_FILES) -> dict[Path, tuple[SourceMatch, ...]]:
    """The first `most` files in a folder that are plain rows, with the surest matches of each; metrics.* go first."""
    files = (path for path in _sorted(folder) if not path.name.startswith("."))
    return {path: matches for path in islice(files, most) if (matches := _row_matches(path))}


def runs_below(folder: Path, mapping: Mapping[str, str]) -> dict[str, Callable[[], Run]]:
    """What reads the run in each of its folders, by the folder's name."""
    readers: dict[str, Callable[[], Run]] = {}
    folders = (p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith("."))
    left = _MOST_FILES
    for inner in islice(folders, _MOST_FOLDERS):
        candidate = Candidate(inner)
        matches = best_matches(candidate)
        sure = matches[0].match.confidence if matches else None
        if sure is not None and (sure > Confidence.FALLBACK or _holds_log(inner, left)):
            readers[inner.name] = partial(_read, inner, matches, mapping)
        left = max(left - len(candidate.names), 0)
    return readers


def contents(folder: Path) -> str:
    """What is in a folder, for a message: `a.txt, b/ and 7 more`."""
    return name_list((f"{path.name}/" if path.is_dir() else path.name for path in sorted(folder.iterdir())), 6)


def _read(folder: Path, matches: tuple[SourceMatch, ...], mapping: Mapping[str, str]) -> Run:
    return only_source(matches, folder).read(folder, mapping)


def _sorted(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: (log_stem(path) not in _FIRST, path.name))


def _holds_log(folder: Path, most: int) -> bool:
    try:
        logs = row_logs(folder, most)
    except OSError:
        return False
    return any(log_stem(path) == "metrics" or m[0].match.confidence > Confidence.FALLBACK for path, m in logs.items())


def _row_matches(path: Path) -> tuple[SourceMatch, ...]:
    candidate = Candidate(path)
    if candidate.is_dir:
        return ()
    return tuple(match for match in best_matches(candidate) if match.source.table is not None)
