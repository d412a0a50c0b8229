"""A source: how it recognizes its log format, and how it reads it."""

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
from postmortem.sources._copies import is_gzip, unpacked_head, unpacked_name

HEAD = 64 * 2**10  # bytes


class Confidence(IntEnum):
    """How sure a source is that a path is a log in its format. Of all sources that match a path, the surest reads it.

    CERTAIN   a mark that no other format has: magic bytes, its own file name or layout
    LIKELY    its content fits
    POSSIBLE  its ending fits, and most files with that ending are in this format
    FALLBACK  readable where nothing else matches, but most such files are something else: any folder, any .json
    """

    FALLBACK = 1
    POSSIBLE = 2
    LIKELY = 3
    CERTAIN = 4


@dataclass(frozen=True)
class FormatMatch:
    """A source's judgment of a path; `reason` completes "it is this format, because …"."""

    confidence: Confidence
    reason: str


@dataclass(frozen=True)
class Candidate:
    """A path that sources look at: each part is read once for all of them, and only the head of a file is read.

    Of a gzipped file, `name`, `ending` and `head` are those of the file in it."""

    path: Path

    @cached_property
    def name(self) -> str:
        """The name of the file or folder."""
        return unpacked_name(self.path.name) if is_gzip(self._raw_head) else self.path.name

    @cached_property
    def ending(self) -> str:
        """The suffix of its name in lower case, such as ".csv"; "" where it has none."""
        return Path(self.name).suffix.lower()

    @cached_property
    def is_dir(self) -> bool:
        """Whether it is a folder, or a link to one. False where it may not be looked at."""
        try:
            return self.path.is_dir()
        except OSError:
            return False

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names in the folder, sorted; () where it is no folder, or may not be listed."""
        try:
            return tuple(sorted(path.name for path in self.path.iterdir())) if self.is_dir else ()
        except OSError:
            return ()

    @cached_property
    def head(self) -> bytes:
        """The first `HEAD` bytes of a regular file; empty where it cannot be read, or is a folder, pipe or device."""
        return unpacked_head(self._raw_head, HEAD) if is_gzip(self._raw_head) else self._raw_head

    @cached_property
    def _raw_head(self) -> bytes:
        try:
            if not self.path.is_file():
                return b""
            with self.path.open("rb") as file:
                return file.read(HEAD)
        except OSError:
            return b""


@dataclass(frozen=True)
class DerivedSteps:
    """The steps of a table's rows by the rule of its format: one number per row; `how` completes "its steps are …"."""

    steps: Numbers
    how: str


CanonicalNames = Mapping[str, str]
"""A log's own column name → the canonical one."""


@dataclass(frozen=True)
class Source:
    """One log format.

    `sniff` says how sure it is that a candidate is in this format, and why; None where it is not. It is cheap and never
    raises. `read` reads the path with --map (canonical → own name). `accepts` describes the format for users whose file
    no source can read; it is empty where a wider format covers it, as CSV covers a kind of CSV.

    A format of plain rows in one file also has `table`, and is then found beside other files in a bare folder:
    `row_source` makes such a source. `table` takes the file and the own names of label columns.

    `columns` are the format's own column names. They go before the names that all formats share, and after --map and
    run.json. Where names depend on the log, it is a function of the table and --map. `steps` is the format's step rule,
    where no column simply counts them; None, as the rule or from it, means that the step column counts them. `limits`
    are sentences about what no log of this format can say, which become notes of the run.

    Raises:
        ValueError: `columns` names something that is no canonical column.
    """

    name: str
    accepts: str
    sniff: Callable[[Candidate], FormatMatch | None]
    read: Callable[[Path, Mapping[str, str]], Run]
    table: Callable[[Path, frozenset[str]], Table] | None = None
    columns: CanonicalNames | Callable[[Table, Mapping[str, str]], CanonicalNames] = field(
        default_factory=lambda: NO_NAMES
    )
    steps: Callable[[Table], DerivedSteps | None] | None = None
    limits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [] if callable(self.columns) else [c for c in self.columns.values() if not is_canonical(c)]
        if unknown:
            raise ValueError(f"source {self.name}: columns: {', '.join(unknown)} is no canonical column")

    def rows(self, path: Path, labels: frozenset[str]) -> SourceTable:
        """The table in a file of this format; `labels` are own names of label columns beside those of `columns`.

        Raises:
            UnreadableInput: `table` cannot read the file.
            TypeError: this format is not plain rows in one file.
        """
        if self.table is None:
            raise TypeError(f"source {self.name} reads no rows from one file")
        declared = {} if callable(self.columns) else self.columns
        own_labels = {
            name for name, canonical in declared.items() if (c := describe(canonical)) is not None and c.label
        }
        return SourceTable(self.table(path, labels | own_labels), self)


@dataclass(frozen=True)
class SourceTable:
    """A table, and the source that read it, with its column names and step rule."""

    table: Table
    source: Source

    def canonical_names(self, mapping: Mapping[str, str]) -> CanonicalNames:
        """The canonical names of the format's own columns; `mapping` is --map.

        Raises:
            UnreadableInput: the format needs a --map to decide.
        """
        columns = self.source.columns
        return columns(self.table, mapping) if callable(columns) else columns

    def derived_steps(self) -> DerivedSteps | None:
        """The steps of the rows by the format's step rule; None where it has no rule, or the rule does not apply.

        Raises:
            TypeError: the rule did not give one step per row.
        """
        derived = None if self.source.steps is None else self.source.steps(self.table)
        if derived is not None and derived.steps.value.size != self.table.rows:
            given = derived.steps.value.size
            raise TypeError(f"source {self.source.name}: its step rule gave {given} steps for {self.table.rows} rows")
        return derived


def by_ending(*endings: str, confidence: Confidence = Confidence.POSSIBLE) -> Callable[[Candidate], FormatMatch | None]:
    """A `sniff` that looks only at the end of a file's name, in upper or lower case."""

    def sniff(candidate: Candidate) -> FormatMatch | None:
        if candidate.ending not in endings or candidate.is_dir:
            return None
        return FormatMatch(confidence, f"its name ends in {candidate.ending}")

    return sniff
