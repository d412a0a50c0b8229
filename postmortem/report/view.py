"""Defines what a report says about a run and one of its incidents, as plain values for every format.

Texts are raw: not escaped and without layout; a renderer's escaper processes each of them. `build.py` computes all
values beforehand, so that the order in which a template reads them does not matter.
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
    """Where a number was read: the `kind` ("column") and `name` of a place, and the letter that refers to it."""

    mark: str
    kind: str
    name: str


@dataclass(frozen=True)
class SourceFile:
    """A file with the places in it. `file` is "" where a place has no kind and its name says everything."""

    file: str
    places: tuple[Place, ...]


@dataclass(frozen=True)
class PanelName:
    """A panel that a sentence names. `name` is None where the diagnosis contains only its number."""

    number: int
    name: str | None


@dataclass(frozen=True)
class PanelView:
    """What a panel shows; or, where it is silent, why, and what it would have shown."""

    number: int
    title: str
    text: str
    would_tell: str
    image: str  # path relative to the report, "" where there is no picture


@dataclass(frozen=True)
class SymptomView:
    """A number of section 1 of the report, its step and the letter of its place, or the reason why it is missing."""

    label: str
    value: Figure
    text: str  # the value with its unit, as it is read
    step: int | None  # None also where the value is the step
    missing: str
    mark: str


@dataclass(frozen=True)
class HypothesisView:
    """A ranked cause. `number` is 1 for "H1"; `same_as` are the numbers of causes that predict the same panels."""

    number: int
    cause: str
    title: str
    known: bool  # False for "none of the causes known here", which has no page and no proof
    strength: Strength
    probability: float  # uncalibrated: for a bar's length, not to be printed
    supported_by: tuple[PanelName, ...]
    against: tuple[PanelName, ...]
    same_as: tuple[int, ...]
    left_open: bool  # True for the share that the panels do not explain


@dataclass(frozen=True)
class EvidenceView:
    """An observation, the numbers of the hypotheses that it affects, and its `effect`: "favors H1 and H3–H5"."""

    panel: int
    title: str
    text: str
    favors: tuple[int, ...]
    rules_out: tuple[int, ...]  # all that it counts against, strongly or not
    weakens: tuple[int, ...]
    effect: str
    mark: str


@dataclass(frozen=True)
class TextPiece:
    """A piece of a sample's text; `marked` if it is one of the batch's worst tokens, with its loss in nats."""

    text: str
    marked: bool = False
    loss: float | None = None


@dataclass(frozen=True)
class SampleView:
    """A suspect sample's text in pieces, and its marked tokens once more, worst first, without surrounding spaces."""

    sample_id: str
    source: str
    pieces: tuple[TextPiece, ...]
    worst: tuple[TextPiece, ...]


@dataclass(frozen=True)
class VerificationView:
    """How to recognize a fixed run: what its loss must show in words, the `baseline` in nats (or None), and checks; or
    why there is nothing to verify."""

    seed: Figure
    expected: str
    baseline: float | None
    through_step: int
    checks: tuple[str, ...]
    command: str
    not_needed: str


@dataclass(frozen=True)
class IncidentView:
    """The incident that a report is about, section by section."""

    id: int
    kind: str
    summary: str
    onset_step: int
    onset: str  # the step, or the interval that contains it
    peak_step: int
    recovery_step: int | None
    recovery: str  # the step, or why there is none
    outcome: Outcome
    overview: str  # path of the one picture of all panels, "" where there is none
    symptoms: tuple[SymptomView, ...]
    symptom_sources: tuple[SourceFile, ...]
    hypotheses: tuple[HypothesisView, ...]  # best first: those that get their own line
    others: tuple[HypothesisView, ...]  # the less likely rest
    unsupported: tuple[HypothesisView, ...]  # what no panel supports, and no replay tested
    strengths: str  # what strong, moderate and weak mean
    evidence: tuple[EvidenceView, ...]  # what speaks for or against a cause; the rest is with the calm panels
    evidence_sources: tuple[SourceFile, ...]
    replays: ReportTable  # a row for each replay
    steps_driven: int
    moved: tuple[PanelView, ...]  # and the loss: the panels that are drawn
    calm: tuple[PanelView, ...]
    silent: tuple[PanelView, ...]
    other_moved: str  # what moved in columns without a known meaning, as a sentence; "" where nothing did
    samples: tuple[SampleView, ...]
    marked: bool  # whether any piece of these samples is marked
    root_cause: str  # or why it is unknown
    proof: str
    watch: str
    done: tuple[str, ...]  # what was done, by the journal, and is no remedy below
    since: str  # whether it worked, "" where nothing was done
    changes: tuple[Remedy, ...]  # what remains
    done_changes: tuple[Remedy, ...]
    declined: tuple[Remedy, ...]
    rollback: str  # what the watchdog asks for, as a sentence; "" in every other mode
    skip_window: tuple[int, int] | None  # batches, half-open
    skipped: str  # how these batches were left out already, "" where they were not
    batches_assumed: bool  # the window counts steps, because no batch index is logged
    checkpoint: str
    passed_over: str  # newer checkpoints, and why they were not chosen
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
    """A report: its head, and either one incident or, for a run without incidents, what was checked."""

    title: str
    date: str
    run_id: str
    verdict: Verdict
    verdict_words: str
    verdict_means: str
    rule: str  # what counts as an incident, if a watchdog searched; "" if every detector did
    resumes: tuple[str, ...]  # that the incident, or a run without one, comes after: the newest, oldest first
    earlier_resumes: int
    later_resumes: tuple[str, ...]  # of later attempts than that of the incident: the first ones
    more_later_resumes: int
    source: str
    extent: str  # rows, steps, and how often there is a row
    seed: Figure
    dtype: str
    processes: str
    segments: tuple[str, ...]  # where the run was resumed or rolled back
    events: tuple[str, ...]  # what else its journal says
    more_events: int
    notes: tuple[str, ...]
    more_notes: int
    incidents: ReportTable  # worst first
    other_incidents: tuple[OtherIncident, ...]
    incidents_found: int  # incidents of the run, also those that are not among these
    incident: IncidentView | None
    looked_at: tuple[PanelView, ...]
    not_there: tuple[PanelView, ...]  # panels that had no data to check
    not_covered: tuple[str, ...]  # what of the others the verdict does not cover
