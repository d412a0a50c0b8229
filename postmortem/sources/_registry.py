"""Every source there is, and which of them is the surest of a path."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from postmortem.discovery import discover
from postmortem.errors import UnreadableInput
from postmortem.sources._source import Candidate, Sniffed, Source
from postmortem.text import plain


@cache
def sources() -> tuple[Source, ...]:
    """Every source: this package's in order of module name, then those that installed distributions add."""
    package = sys.modules["postmortem.sources"]
    return discover(package, "SOURCE", Source, group="postmortem.sources", unique=("name",))


@dataclass(frozen=True)
class FormatClaim:
    """What one source says of one path."""

    source: Source
    sniffed: Sniffed


def surest(candidate: Candidate) -> tuple[FormatClaim, ...]:
    """The claims of the highest confidence: none, one, or a tie."""
    claims = [FormatClaim(source, sniffed) for source in sources() if (sniffed := source.sniff(candidate)) is not None]
    best = max((claim.sniffed.confidence for claim in claims), default=None)
    return tuple(claim for claim in claims if claim.sniffed.confidence == best)


def decided(claims: Sequence[FormatClaim], path: Path) -> Source:
    """The source of the only claim.

    Raises:
        UnreadableInput: several are equally sure; names them with their reasons.
    """
    if len(claims) > 1:
        said = "; ".join(f"{c.source.name} (because {c.sniffed.reason})" for c in claims)
        level = claims[0].sniffed.confidence.name.lower()
        named = plain(claims[0].source.name, 60)
        raise UnreadableInput(
            f"{len(claims)} formats claim it and are equally sure ({level}): {plain(said, 600)}.",
            file=plain(path),
            hint=f"`draft` can be told which it is, as in: postmortem draft {plain(path)} --source '{named}'",
        )
    return claims[0].source
