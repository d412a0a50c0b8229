"""The facts of an incident that all rooms share: its kind, its steps, its outcome, and its identity.

Detectors find incidents, a diagnosis explains them, a diff compares those of two runs. All of them extend `Occurrence`,
and all identify an incident by the same `IncidentKey`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

Outcome: TypeAlias = Literal["recovered", "lingering", "diverged", "unresolved"]

Role: TypeAlias = Literal["symptom", "cause", "fatal", "minor"]
"""The role of a kind in its incident: a symptom; a possible cause, which may lead by many rows; fatal, where the run
computes no numbers any more; or minor, seldom worth a report."""

Measures: TypeAlias = Literal["loss", "column", "nothing"]
"""What the baseline and peak of a kind measure: the loss, the finding's own column, or nothing worth reading."""


@dataclass(frozen=True)
class Kind:
    """One kind of incident, declared by the detector that finds it. `title` is how people read it. A `precursor` may
    come long before any harm: where another finding shows the harm, that one dates the incident."""

    slug: str
    title: str
    role: Role = "symptom"
    measures: Measures = "column"
    precursor: bool = False


@dataclass(frozen=True)
class IncidentKey:
    """The identity of an incident within its run. `discarded`: it is in rows that were rolled back later."""

    kind: str
    onset_step: int
    attempt: int
    discarded: bool


@dataclass(frozen=True)
class Occurrence:
    """The facts that all views of an incident share.

    `onset_step` is the first abnormal row, `peak_step` the worst one, `recovery_step` the first settled one after it
    (None where it never settles, or the log ends first). `onset_interval` is (last normal logged step, onset_step)
    where the two are more than one step apart. `suspected`: the log went blank, not bad. `severity` orders
    incidents and has no unit (see `detectors.DetectedIncident`). `title` is the kind as people read it.
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
        """The attempt in whose rows it is, where they were rolled back; None for the effective history."""
        return self.attempt if self.discarded else None

    def last_sound_step(self, first_column: str) -> int:
        """The last step whose state, before its update, cannot contain the damage; `first_column` departed first.

        The loss of the onset is measured on the state of that step: where the loss moved first, only the state of the
        last normal row is sound. Gradient, parameters and moments are measured later, at the update.
        """
        if self.onset_interval:
            return self.onset_interval[0]
        return self.onset_step - (first_column in ("loss", "eval_loss"))


def facts(incident: Occurrence) -> dict[str, Any]:
    """The shared facts by name, for another view of the same incident; the severity is rounded to four digits."""
    shared = {field.name: getattr(incident, field.name) for field in fields(Occurrence)}
    return {**shared, "severity": round(incident.severity, 4)}
