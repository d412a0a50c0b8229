"""What an incident is, whoever looks at it: what kind of thing went wrong, in which row, and what became of it.

Detectors find incidents, a diagnosis explains them, a diff holds those of two runs against each other. All of them are
an `Occurrence` with more to say, and all name it by the same `IncidentKey`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

Outcome: TypeAlias = Literal["recovered", "lingering", "diverged", "unresolved"]

Role: TypeAlias = Literal["symptom", "cause", "fatal", "minor"]
"""What a kind is to the incident that it belongs to: something that suffers; something that may have done it, and so
may lead by many rows; a run that computes no numbers any more; or a thing of its own that is seldom worth a report."""

Measures: TypeAlias = Literal["loss", "column", "nothing"]
"""What baseline and peak of a kind are figures of: the loss, the finding's own column, or nothing worth reading."""


@dataclass(frozen=True)
class Kind:
    """One kind of incident, declared by the detector that finds it. `title` is how people read it."""

    slug: str
    title: str
    role: Role = "symptom"
    measures: Measures = "column"


@dataclass(frozen=True)
class IncidentKey:
    """What tells incidents of one run apart. `discarded`: it lies in rows that were rolled back later."""

    kind: str
    onset_step: int
    attempt: int
    discarded: bool


@dataclass(frozen=True)
class Occurrence:
    """The facts of an incident that every view of it shares.

    `onset_step` is the first abnormal row, `peak_step` the worst one, `recovery_step` the first settled one after it
    (None where it never settles, or the log ends first). `onset_interval` is (last normal logged step, onset_step)
    where the two are more than one step apart. `suspected`: the log went blank rather than bad. `severity` orders
    incidents and has no unit (see `detectors.Incident`). `title` is the kind as people read it.
    """

    kind: str
    onset_step: int
    onset_interval: tuple[int, int] | None
    peak_step: int
    recovery_step: int | None
    outcome: Outcome
    severity: float
    suspected: bool
    attempt: int
    discarded: bool
    title: str = field(default="", kw_only=True)

    @property
    def key(self) -> IncidentKey:
        """Its identity within the run."""
        return IncidentKey(self.kind, self.onset_step, self.attempt, self.discarded)

    @property
    def lineage(self) -> int | None:
        """The attempt whose rows it was seen in, where they were rolled back; None for the effective history."""
        return self.attempt if self.discarded else None


def facts(one: Occurrence) -> dict[str, Any]:
    """The shared facts by name, for another view of the same incident; the severity to four digits."""
    held = {known.name: getattr(one, known.name) for known in fields(Occurrence)}
    return {**held, "severity": round(one.severity, 4)}
