"""What a detector sees, what it says, and what an incident is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from postmortem.discovery import mistake
from postmortem.incident import Kind, Occurrence, Outcome, Role
from postmortem.series import Series

Labels = tuple[NDArray[np.int64], NDArray[np.object_]]

RECOVERED: Outcome = "recovered"
LINGERING: Outcome = "lingering"
DIVERGED: Outcome = "diverged"
UNRESOLVED: Outcome = "unresolved"

SETTLE_ROWS = 50
"""k: a log that ends within this many rows after the peak, without being back, leaves the outcome unresolved."""


@dataclass(frozen=True, eq=False)
class Telemetry:
    """A run as arrays: all that a detector may look at, so that a live guard can offer the same.

    `series(name)` and `labels(name)` are None where the column was never logged. `row_steps` is int64[n], strictly
    increasing: every row that was written, also rows that left the loss blank. `restarts` holds the first step of each
    resumed attempt.
    """

    series: Callable[[str], Series | None]
    names: tuple[str, ...]
    row_steps: NDArray[np.int64]
    labels: Callable[[str], Labels | None]
    restarts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One panel's departure from its own past.

    `onset_step` is the first abnormal row, `peak_step` the worst one, `recovery_step` the first settled one after the
    peak (None where it never settles, or the log ends first). `onset_interval` is (last normal logged step, onset_step)
    where the two are more than one step apart. `peak`, `baseline`, `scale` (robust sigma) and `settled` are in the
    column's own units; `score` is the departure in robust sigmas. A finding with `opens` false supports an incident
    that another panel opened, and is dropped where there is none. `declared` is its kind as the detector declares it,
    filled in by `Detector.findings`.
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
    declared: Kind | None = None

    @property
    def role(self) -> Role:
        """The role of its kind."""
        return "symptom" if self.declared is None else self.declared.role


@dataclass(frozen=True)
class DetectedIncident(Occurrence):
    """Findings that belong together. Onset: the first mover's. Peak, recovery, outcome: the primary finding's.

    `findings` is ordered by onset (first mover first). `severity` orders incidents and has no unit: its whole part is
    the tier (5 never recovers or turns non-finite for good, 4 a suspected non-finite or an unresolved loss, 3 lingering
    loss, or a cause that stays (rate, optimizer state, parameters), 2 either of these that recovered, 1 another panel
    alone, 0 an isolated skipped step), its fraction the size.
    """

    findings: tuple[Finding, ...]


State = Literal["open", "settled", "withdrawn"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a live detector says at `step` of a departure that began at `onset_step`.

    An alarm is told when it opens, again when its kind or `opens` (see `Finding`) becomes another, and for the last
    time when it is settled (its kind is what `find` says of the whole run, whatever comes) or withdrawn (with what
    came since, `find` no longer says it). `key` is the same all the while.
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
        """What tells it from other alarms."""
        return self.detector, self.column, self.onset_step


Row = Mapping[str, Any]
"""Column → value, as it was logged: what is no number is not looked at."""


def number(value: object) -> float | None:
    """A logged value as a float; None where it is no number."""
    return float(value) if isinstance(value, (int, float)) else None


class Stream(Protocol):
    """The live face of a detector: it is told of each row once, in order, and keeps no more than it needs."""

    def take(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`. A column whose steps do not ascend is not looked at."""
        ...

    def end(self, step: int) -> Sequence[Alarm]:
        """What changes because `step` was the last row: every open alarm is settled or withdrawn."""
        ...

    def rewound(self, step: int) -> None:
        """The run went back and goes on with `step`: what was seen of it and of later ones is forgotten."""
        ...

    def levels(self) -> Mapping[str, float]:
        """Column → a value that its next row must exceed to be told at once. What needs several rows is not in it."""
        return {}


@dataclass(frozen=True)
class Detector:
    """One rule: `find` yields its findings in order of onset; `kinds` are those that it may find, declared here and
    nowhere else.

    `stream` makes its live face, which says the same row by row; where it has none, `no_stream` says why in a sentence.
    """

    name: str
    kinds: tuple[Kind, ...]
    find: Callable[[Telemetry], Iterable[Finding]]
    stream: Callable[[], Stream] | None = None
    no_stream: str = ""

    def findings(self, t: Telemetry) -> Iterator[Finding]:
        """What it finds, each with its kind. Raises TypeError, or BrokenPlugin, for a kind that it does not declare."""
        declared = {kind.slug: kind for kind in self.kinds}
        for found in self.find(t):
            if found.kind not in declared:
                raise mistake(self, f"detector {self.name}: found {found.kind!r}, which is none of its kinds")
            yield replace(found, declared=declared[found.kind])


def onset_interval(step: NDArray[np.int64], row: int) -> tuple[int, int] | None:
    """(last normal logged step, onset step) for an onset at `row`; None where they are adjacent or there is no past."""
    if row == 0 or step[row] - step[row - 1] <= 1:
        return None
    return int(step[row - 1]), int(step[row])
