"""Dialects of text logs: what the metric lines of one program are called, and what they cannot say.

A text log is read without one, too: a dialect only adds names and limits. Each is one public file here that contains
`DIALECT`; `postmortem.sources.text_log` reads the lines.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache

from postmortem.discovery import discover
from postmortem.run.naming import NO_NAMES


@dataclass(frozen=True)
class Dialect:
    """One program's way to print its metrics as text.

    A log is in this dialect where one of its lines has all `keys`, as the program spells them. `columns` map its own
    names to canonical ones; further names are known as in any log. `keywords` are in each metric line that contains no
    word for a loss. `limits` are sentences about what no log of this program can say.
    """

    name: str
    keys: frozenset[str]
    columns: Mapping[str, str] = field(default_factory=lambda: NO_NAMES)
    keywords: tuple[bytes, ...] = ()
    limits: tuple[str, ...] = ()


@cache
def dialects() -> tuple[Dialect, ...]:
    """All dialects, those with the most keys first."""
    every = discover(sys.modules[__name__], "DIALECT", Dialect, unique=("name",))
    return tuple(sorted(every, key=lambda dialect: -len(dialect.keys)))


def dialects_of(keys: Collection[str]) -> tuple[Dialect, ...]:
    """The dialects of a line, or of the lines of a log, with these keys; the first is the one with most keys."""
    return tuple(dialect for dialect in dialects() if dialect.keys.issubset(keys))
