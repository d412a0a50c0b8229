"""The formats of a report, one file each: `RENDERER = Renderer(...)`.

A renderer makes text of a `ReportView` and of nothing else; the escaper of its format is its own. One that goes through
a template is a `Template` with that escaper: see `postmortem.report.templates`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from postmortem.discovery import discover
from postmortem.report.view import ReportView


@dataclass(frozen=True)
class Renderer:
    """A format: the `name` it is asked for by, and what renders it."""

    name: str
    render: Callable[[ReportView], str]


@cache
def renderers() -> dict[str, Renderer]:
    """Name → renderer, of every file there is, in order of name."""
    found = discover(sys.modules[__name__], "RENDERER", Renderer)
    return {one.name: one for one in sorted(found, key=lambda one: one.name)}
