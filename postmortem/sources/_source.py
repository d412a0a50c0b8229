"""What a source is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from postmortem.run import Run
from postmortem.run.table import Table


@dataclass(frozen=True)
class Source:
    """One log format: `sniff` decides by name and first bytes and never raises on a readable path; `read` reads.

    `accepts` is what `open_run` tells a user who gave it something else. A format of plain rows gives `table` as well:
    then it is found beside other files in a bare folder. `table` takes the file and the own names of label columns.
    """

    name: str
    accepts: str
    sniff: Callable[[Path], bool]
    read: Callable[[Path, Mapping[str, str]], Run]
    table: Callable[[Path, frozenset[str]], Table] | None = None
