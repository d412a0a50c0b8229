"""The logs in a folder, and in the folders one level down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

from postmortem.run import Run
from postmortem.run.naming import name_list
from postmortem.sources._registry import SourceMatch, best_matches, only_source
from postmortem.sources._source import Candidate, Confidence

_MOST_LOOKED_AT = 1_000


def row_logs(folder: Path) -> dict[Path, tuple[SourceMatch, ...]]:
    """The files in a folder that are plain rows, with the surest matches of each."""
    files = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    return {path: matches for path in files if (matches := _row_matches(path))}


def runs_below(folder: Path, mapping: Mapping[str, str]) -> dict[str, Callable[[], Run]]:
    """What reads the run in each of its folders, by the folder's name."""
    readers: dict[str, Callable[[], Run]] = {}
    folders = (p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith("."))
    for inner in islice(folders, _MOST_LOOKED_AT):
        matches = best_matches(Candidate(inner))
        sure = matches[0].match.confidence if matches else None
        if sure is not None and (sure > Confidence.FALLBACK or _holds_log(inner)):
            readers[inner.name] = partial(_read, inner, matches, mapping)
    return readers


def contents(folder: Path) -> str:
    """What is in a folder, for a message: `a.txt, b/ and 7 more`."""
    return name_list((f"{path.name}/" if path.is_dir() else path.name for path in sorted(folder.iterdir())), 6)


def _read(folder: Path, matches: tuple[SourceMatch, ...], mapping: Mapping[str, str]) -> Run:
    return only_source(matches, folder).read(folder, mapping)


def _holds_log(folder: Path) -> bool:
    try:
        logs = row_logs(folder)
    except OSError:
        return False
    return any(path.stem == "metrics" or m[0].match.confidence > Confidence.FALLBACK for path, m in logs.items())


def _row_matches(path: Path) -> tuple[SourceMatch, ...]:
    candidate = Candidate(path)
    if candidate.is_dir:
        return ()
    return tuple(match for match in best_matches(candidate) if match.source.table is not None)
