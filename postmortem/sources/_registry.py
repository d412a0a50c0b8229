"""All sources, and which of them is surest of a path."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from postmortem.discovery import discover
from postmortem.errors import UnreadableInput
from postmortem.sources._source import Candidate, FormatMatch, Source
from postmortem.text import plain


@cache
def sources() -> tuple[Source, ...]:
    """All sources: this package's in order of module name, then those that installed distributions add."""
    package = sys.modules["postmortem.sources"]
    return discover(package, "SOURCE", Source, group="postmortem.sources", unique=("name",))


@dataclass(frozen=True)
class SourceMatch:
    """One source's match with one path."""

    source: Source
    match: FormatMatch


def best_matches(candidate: Candidate) -> tuple[SourceMatch, ...]:
    """The matches of the highest confidence: no source, one source, or a tie."""
    matches = [SourceMatch(source, match) for source in sources() if (match := source.sniff(candidate)) is not None]
    best = max((match.match.confidence for match in matches), default=None)
    return tuple(match for match in matches if match.match.confidence == best)


def only_source(matches: Sequence[SourceMatch], path: Path) -> Source:
    """The source of the only match.

    Raises:
        UnreadableInput: several are equally sure; names them with their reasons.
    """
    if len(matches) > 1:
        reasons = "; ".join(f"{m.source.name} (because {m.match.reason})" for m in matches)
        level = matches[0].match.confidence.name.lower()
        first = plain(matches[0].source.name, 60)
        raise UnreadableInput(
            f"{len(matches)} formats match and are equally sure ({level}): {plain(reasons, 600)}.",
            file=plain(path),
            hint=f"Say which format it is, as in: postmortem draft {plain(path)} --source '{first}'",
        )
    return matches[0].source
