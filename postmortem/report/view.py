"""What a report says of a run and of one incident in it, as plain values that are the same for every format.

Texts are raw: nothing is escaped, nothing is laid out, and a renderer's escaper sees every one of them. `build.py`
works all of it out beforehand, so that it does not matter what a template reads first.
"""

from __future__ import annotations

from dataclasses import dataclass

from postmortem.diagnosis import Figure, Remedy, Strength, Verdict
from postmortem.incident import Outcome


@dataclass(frozen=True)
class ReportTable:
    """Headers, and rows of as many values. `marked`: index of the row that the report is about."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Figure, ...], ...]
    marked: int | None = None


@dataclass(frozen=True)
class Place:
    """Where a number was read: the `kind` ("column") and `name` of a place, and the letter that stands for it."""

    mark: str
    kind: str
    name: str


@dataclass(frozen=True)
class SourceFile:
    """A file with the places in it; "" where the name of a place says all and its kind is empty."""

    file: str
    places: tuple[Place, ...]


@dataclass(frozen=True)
class PanelName:
    """A panel that a sentence names; None where the diagnosis knows its number only."""

    number: int
    name: str | None


@dataclass(frozen=True)
class PanelView:
    """What a panel said or, where it is silent, why, and what it would have told."""

    number: int
    title: str
    text: str
    would_tell: str
    image: str  # path relative to the report, "" where there is no picture


@dataclass(frozen=True)
class SymptomView:
    """A number of section 1 with its step and the letter of its place, or why it is missing."""

    label: str
    value: Figure
    text: str  # the value with its unit, as it is read
    step: int | None  # None also where the value is the step
    missing: str
    mark: str


@dataclass(frozen=True)
class HypothesisView:
    """A ranked cause. `number` is that of "H1"; `same_as` are the numbers of those that it cannot be told from."""

    number: int
    cause: str
    title: str
    known: bool  # False for "none of the causes known here", which nothing explains or proves
    strength: Strength
    probability: float  # uncalibrated: for a bar's length, not to be printed
    supported_by: tuple[PanelName, ...]
    against: tuple[PanelName, ...]
    same_as: tuple[int, ...]
    left_open: bool  # what the panels leave open, rather than what they say


@dataclass(frozen=True)
class EvidenceView:
    """An observation, the numbers of the hypotheses it speaks to, and its `effect` on them: "favors H1 and H3–H5"."""

    panel: int
    title: str
    text: str
    favors: tuple[int, ...]
    rules_out: tuple[int, ...]
    weakens: tuple[int, ...]
    effect: str
    mark: str


@dataclass(frozen=True)
class TextPiece:
    """A stretch of a sample's text; `marked` where it is a token among the batch's worst, with its loss in nats."""

    text: str
    marked: bool = False
    loss: float | None = None


@dataclass(frozen=True)
class SampleView:
    """A suspect sample's text in pieces, and its marked tokens again, worst first, without the spaces around them."""

    sample_id: str
    source: str
    pieces: tuple[TextPiece, ...]
    worst: tuple[TextPiece, ...]


@dataclass(frozen=True)
class VerificationView:
    """How a fixed run is known: `expected` of its loss (`baseline`, in nats, None where there is none) and checks."""

    seed: Figure
    expected: str
    baseline: float | None
    through_step: int
    checks: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class IncidentView:
    """The incident that a report is about, section by section."""

    id: int
    kind: str
    summary: str
    onset_step: int
    onset: str  # the step, or the interval it lies in
    peak_step: int
    recovery_step: int | None
    recovery: str  # the step, or why there is none
    outcome: Outcome
    overview: str  # path of the one picture of all panels, "" where there is none
    symptoms: tuple[SymptomView, ...]
    symptom_sources: tuple[SourceFile, ...]
    hypotheses: tuple[HypothesisView, ...]  # best first: those worth a line of their own
    others: tuple[HypothesisView, ...]  # weighed, and hardly spoken for
    evidence: tuple[EvidenceView, ...]  # what speaks for or against a cause; the rest stands with the calm panels
    evidence_sources: tuple[SourceFile, ...]
    replays: ReportTable  # a row for each that was driven
    steps_driven: int
    moved: tuple[PanelView, ...]  # and the loss: what is drawn
    calm: tuple[PanelView, ...]
    silent: tuple[PanelView, ...]
    samples: tuple[SampleView, ...]
    marked: bool  # whether any piece of these samples is
    root_cause: str  # or why it is not known
    proof: str
    watch: str
    changes: tuple[Remedy, ...]
    declined: tuple[Remedy, ...]
    skip_window: tuple[int, int] | None  # batches, half-open
    batches_assumed: bool  # the window counts steps, because no batch index is logged
    checkpoint: str
    verification: VerificationView | None
    lesson: str


@dataclass(frozen=True)
class OtherIncident:
    """An incident that the report is not about."""

    id: int
    kind: str
    onset: str


@dataclass(frozen=True)
class ReportView:
    """A report: its head, and either one incident or, without any, what was looked at."""

    title: str
    date: str
    run_id: str
    verdict: Verdict
    verdict_words: str
    verdict_means: str
    resumes: tuple[str, ...]  # the newest, oldest first
    earlier_resumes: int
    source: str
    extent: str  # rows, steps, and how often there is one
    seed: Figure
    dtype: str
    processes: str
    segments: tuple[str, ...]  # where the run was resumed or rolled back
    notes: tuple[str, ...]
    more_notes: int
    incidents: ReportTable  # worst first
    other_incidents: tuple[OtherIncident, ...]
    incident: IncidentView | None
    looked_at: tuple[PanelView, ...]
    not_there: tuple[PanelView, ...]  # to look at
