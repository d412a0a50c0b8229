"""The formats of a report, one file each: a file defines `RENDERER = Renderer(...)`.

A renderer turns a `ReportView` into text and brings the escaper of its format. A renderer with a template is a
`Template` with that escaper: see `postmortem.report.templates`.
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
    """A format: its `name` (as in `--format`), and the function that renders it."""

    name: str
    render: Callable[[ReportView], str]


@cache
def renderers() -> dict[str, Renderer]:
    """Name → renderer, for every file of this package, in order of name."""
    discovered = discover(sys.modules[__name__], "RENDERER", Renderer)
    return {renderer.name: renderer for renderer in sorted(discovered, key=lambda renderer: renderer.name)}
