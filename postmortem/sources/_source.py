"""What a source is, and how sure it says it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path

from postmortem.run import Run
from postmortem.run.columns import describe, is_canonical
from postmortem.run.naming import NO_NAMES
from postmortem.run.table import Table
from postmortem.run.values import Numbers

HEAD = 64 * 2**10


class Confidence(IntEnum):
    """How sure a source is that a path is a log in its format. Of all that claim a path, the surest reads it.

    CERTAIN   a mark that no other format has: magic bytes, a file name or a layout of its own
    LIKELY    what stands in it fits
    POSSIBLE  only its ending says so, and most files of that ending are such
    FALLBACK  readable so where nothing else claims it, but most are something else: any folder, any .json
    """

    FALLBACK = 1
    POSSIBLE = 2
    LIKELY = 3
    CERTAIN = 4


@dataclass(frozen=True)
class Sniffed:
    """A source's claim on a path; `reason` completes "it is this format, because …"."""

    confidence: Confidence
    reason: str


@dataclass(frozen=True)
class Candidate:
    """A path as all sources look at it: what they ask for is read once, and no more of a file than its head."""

    path: Path

    @property
    def ending(self) -> str:
        """The suffix of its name in lower case, as ".csv"; "" where it has none."""
        return self.path.suffix.lower()

    @cached_property
    def is_dir(self) -> bool:
        """Whether it is a folder, be it by a link. Not where it leads to what may not be looked at."""
        try:
            return self.path.is_dir()
        except OSError:
            return False

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names in the folder, sorted; none where it is no folder, or may not be listed."""
        try:
            return tuple(sorted(path.name for path in self.path.iterdir())) if self.is_dir else ()
        except OSError:
            return ()

    @cached_property
    def head(self) -> bytes:
        """The first `HEAD` bytes of a regular file; empty where it cannot be read, and of a folder, pipe or device."""
        try:
            if not self.path.is_file():
                return b""
            with self.path.open("rb") as file:
                return file.read(HEAD)
        except OSError:
            return b""


@dataclass(frozen=True)
class CountedSteps:
    """Steps that a format's rule gives to the rows of a table: one number a row; `how` completes "its steps are …"."""

    steps: Numbers
    how: str


OwnNames = Mapping[str, str]
"""A log's own column name → the canonical one."""


@dataclass(frozen=True)
class Source:
    """One log format.

    `sniff` says how sure it is that a candidate is in this format, and why; None where it is not. It is cheap and never
    raises. `read` reads the path, given --map (canonical → own name). `accepts` is what `open_run` tells a user who
    gave it something else; empty where the words of a wider format cover it, as those of CSV do for a kind of CSV.

    A format of plain rows in one file gives `table` as well, and is then found beside other files in a bare folder:
    `row_source` makes such a source. `table` takes the file and the own names of label columns.

    `columns` are the format's own column names. They are believed before the names that all formats share, and after
    --map and run.json. Where names depend on the log, it is a function of the table and --map. `steps` is the format's
    step rule, where no column simply counts them; None (as a rule, or from it) leaves them to the columns' names.

    Raises:
        ValueError: `columns` names something that is no canonical column.
    """

    name: str
    accepts: str
    sniff: Callable[[Candidate], Sniffed | None]
    read: Callable[[Path, Mapping[str, str]], Run]
    table: Callable[[Path, frozenset[str]], Table] | None = None
    columns: OwnNames | Callable[[Table, Mapping[str, str]], OwnNames] = field(default_factory=lambda: NO_NAMES)
    steps: Callable[[Table], CountedSteps | None] | None = None

    def __post_init__(self) -> None:
        strangers = [] if callable(self.columns) else [c for c in self.columns.values() if not is_canonical(c)]
        if strangers:
            raise ValueError(f"source {self.name}: columns: {', '.join(strangers)} is no canonical column")

    def rows(self, path: Path, labels: frozenset[str]) -> SourceTable:
        """The table in a file of this format; `labels` are own names of label columns beside those of `columns`.

        Raises:
            UnreadableInput: whatever `table` refuses.
            TypeError: this format is no plain rows in one file.
        """
        if self.table is None:
            raise TypeError(f"source {self.name} reads no rows from one file")
        declared = {} if callable(self.columns) else self.columns
        own = {name for name, canonical in declared.items() if (c := describe(canonical)) is not None and c.label}
        return SourceTable(self.table(path, labels | own), self)


@dataclass(frozen=True)
class SourceTable:
    """A table with the source that read it, whose column names and step rule hold for it."""

    table: Table
    source: Source

    def own_names(self, wanted: Mapping[str, str]) -> OwnNames:
        """What the format says of its columns; `wanted` is --map.

        Raises:
            UnreadableInput: the format cannot say without a --map.
        """
        columns = self.source.columns
        return columns(self.table, wanted) if callable(columns) else columns

    def counted(self) -> CountedSteps | None:
        """What the format's step rule makes of the rows; None where it has none, or the rule does not apply.

        Raises:
            TypeError: the rule gave another number of steps than there are rows.
        """
        found = None if self.source.steps is None else self.source.steps(self.table)
        if found is not None and found.steps.value.size != self.table.rows:
            given = found.steps.value.size
            raise TypeError(f"source {self.source.name}: its step rule gave {given} steps for {self.table.rows} rows")
        return found


def by_ending(*endings: str, confidence: Confidence = Confidence.POSSIBLE) -> Callable[[Candidate], Sniffed | None]:
    """A `sniff` that goes by the end of a file's name alone, in any case."""

    def sniff(candidate: Candidate) -> Sniffed | None:
        if candidate.ending not in endings or candidate.is_dir:
            return None
        return Sniffed(confidence, f"its name ends in {candidate.ending}")

    return sniff
