"""What a detector reads, what it reports, and what an incident is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from postmortem.discovery import mistake
from postmortem.incident import Kind, Occurrence, Outcome, Role
from postmortem.series import Series

LabelArrays = tuple[NDArray[np.int64], NDArray[np.object_]]
"""Steps int64[n], strictly increasing, and the text or lists that a column logged there, object[n]."""

RECOVERED: Outcome = "recovered"
LINGERING: Outcome = "lingering"
DIVERGED: Outcome = "diverged"
UNRESOLVED: Outcome = "unresolved"
"""Back at its old level; settled, but at another level; never came down; the log ends too early to know."""

SETTLE_ROWS = 50
"""Rows after the peak that decide an outcome: a log that ends earlier, without a return, leaves it unresolved."""


@dataclass(frozen=True, eq=False)
class Telemetry:
    """A run as arrays: all that a detector may read.

    `series(name)` and `labels(name)` are None where the column was never logged. `row_steps` is int64[n], strictly
    increasing: every row that was written, also rows without a loss. `restarts` are the first steps of the resumed
    attempts. `ranks` are those that were logged, where there are several: `<name>/rank<r>` is the column of one rank.
    `smoothed` are the columns whose log says that they are averages over the rows before. `epoch` is the number of the
    epoch, which may grow by fractions, whatever the log calls it.
    """

    series: Callable[[str], Series | None]
    names: tuple[str, ...]
    row_steps: NDArray[np.int64]
    labels: Callable[[str], LabelArrays | None]
    restarts: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    smoothed: frozenset[str] = frozenset()
    epoch: Series | None = None


@dataclass(frozen=True)
class Finding:
    """One column's departure from its own past.

    `onset_step` is the first abnormal row, `peak_step` the worst one, `recovery_step` the first settled one after the
    peak (None where it never settles, or the log ends first). `onset_interval` is (last normal logged step, onset_step)
    where the two are more than one step apart. `peak`, `baseline`, `scale` (robust sigma) and `settled` are in the
    column's own units; `score` is the departure in robust sigmas. A finding with `opens` false supports an incident
    that another finding opened, and is dropped where there is none. One of which noise with its column's tail makes one
    in `noise_runs` runs is `brief`: it opens one only with another column in the same row, or several of its kind.
    `declared` is its kind as the detector declares it, filled in by `Detector.findings`.
    """

    detector: str
    kind: str
    column: str
    onset_step: int
    onset_interval: tuple[int, int] | None
    peak_step: int
    recovery_step: int | None
    peak: float
    baseline: float
    scale: float
    score: float
    settled: float | None
    outcome: Outcome
    suspected: bool = False
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    opens: bool = True
    noise_runs: float = math.inf
    declared: Kind | None = None

    @property
    def brief(self) -> bool:
        """Whether it may be a row from a heavy tail."""
        return math.isfinite(self.noise_runs)

    @property
    def role(self) -> Role:
        """The role of its kind."""
        return "symptom" if self.declared is None else self.declared.role

    @property
    def precursor(self) -> bool:
        """Whether its kind may come long before any harm."""
        return self.declared is not None and self.declared.precursor


@dataclass(frozen=True)
class DetectedIncident(Occurrence):
    """Findings that belong together. Its onset is that of the first finding; its peak, recovery and outcome are those
    of the primary finding.

    `findings` is in order of onset, with precursors at the end. `severity` orders incidents and has no unit. Its whole
    part is the tier: 5 never recovers or stays non-finite, 4 a suspected non-finite or an unresolved loss, 3 a
    lingering loss, or a cause that stays (rate, optimizer state, parameters), 2 either of these that recovered, 1
    another column alone, 0 an isolated skipped step. Its fraction is the size.
    """

    findings: tuple[Finding, ...]


State = Literal["open", "settled", "withdrawn"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a live detector reports at `step` about a departure that began at `onset_step`.

    An alarm is reported when it opens, again when its kind or `opens` (see `Finding`) changes, and for the last time
    when it is settled (no later row can change it: `detect` reports the same kind for the whole run) or withdrawn (with
    the later rows, `detect` does not report it any more). Its `key` never changes.
    """

    detector: str
    kind: str
    column: str
    onset_step: int
    step: int
    opens: bool = True
    state: State = "open"

    @property
    def key(self) -> tuple[str, str, int]:
        """Its identity among the alarms of a run."""
        return self.detector, self.column, self.onset_step


Row = Mapping[str, Any]
"""Column → value, as it was logged; values that are no numbers are ignored."""


def as_float(value: object) -> float | None:
    """A logged value as a float; None where it is no number."""
    return float(value) if isinstance(value, (int, float)) else None


class Stream(Protocol):
    """The row-by-row version of a detector: it gets each row once, in order, and keeps no more rows than it needs."""

    def add_row(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`. A value whose step does not ascend is ignored."""
        ...

    def end(self, step: int) -> Sequence[Alarm]:
        """What changes because `step` was the last row: every open alarm is settled or withdrawn."""
        ...

    def rewind_to(self, step: int) -> None:
        """The run went back and goes on with `step`: forget this row and later ones."""
        ...

    def levels(self) -> Mapping[str, float]:
        """Column → a value that its next row must exceed to raise an alarm at once, in the column's own unit. Columns
        that need several rows for an alarm are absent."""
        return {}


@dataclass(frozen=True)
class Detector:
    """One rule. `detect` yields its findings in order of onset; `kinds` are the kinds that it may find, declared here
    and nowhere else.

    `stream` makes its row-by-row version, which reports the same; where there is none, `no_stream` says why in one
    sentence.
    """

    name: str
    kinds: tuple[Kind, ...]
    detect: Callable[[Telemetry], Iterable[Finding]]
    stream: Callable[[], Stream] | None = None
    no_stream: str = ""

    def findings(self, t: Telemetry) -> Iterator[Finding]:
        """What it detects, each finding with its declared kind.

        Raises:
            TypeError, BrokenPlugin: a kind that it does not declare.
        """
        declared = {kind.slug: kind for kind in self.kinds}
        for finding in self.detect(t):
            if finding.kind not in declared:
                raise mistake(self, f"detector {self.name}: found {finding.kind!r}, a kind that it does not declare")
            yield replace(finding, declared=declared[finding.kind])


def onset_interval(step: NDArray[np.int64], row: int) -> tuple[int, int] | None:
    """(last normal logged step, onset step) for an onset at `row`; None where they are adjacent or there is no past."""
    if row == 0 or step[row] - step[row - 1] <= 1:
        return None
    return int(step[row - 1]), int(step[row])
