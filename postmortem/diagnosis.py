"""Defines the diagnosis of a run: the records that every report is rendered from, and their versioned JSON.

Weights are log-odds. A cause's score is its prior plus the weights of its evidence; `rank` turns the scores of all
causes, and of `unknown`, into probabilities by softmax. `docs/diagnosis.md` documents every key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from postmortem.change import Change
from postmortem.errors import UnreadableInput
from postmortem.incident import Occurrence
from postmortem.jsonio import numbers_on_one_line, read_record, strict_json
from postmortem.notebook_page import markdown
from postmortem.text import count, plain, row_range

SCHEMA_VERSION = 2
UNKNOWN = "unknown"
MEAN_ROWS = 50  # a fixed run is judged by the mean of its loss over as many rows: single rows are too noisy
STRONG, MODERATE = 0.8, 0.4  # shares from which a hypothesis is called so

Verdict = Literal[
    "no_incident", "not_judged", "undecided", "supported", "confirmed", "refuted", "interaction", "not_reproducible"
]
OF_RUNS: tuple[Verdict, ...] = ("no_incident", "not_judged")  # verdicts of a run without incidents, and of no incident
Strength = Literal["strong", "moderate", "weak"]
Figure = float | int | str | None


@dataclass(frozen=True)
class Symptom:
    """One line of §1 of the report: a number with its origin, or the reason why there is none."""

    key: str
    label: str
    value: Figure = None
    step: int | None = None
    origin: str = ""
    text: str = ""  # the value as people read it, with unit and comparison; "" renders `value`
    missing: str = ""  # why there is no value, and what to log next time


@dataclass(frozen=True)
class Trace:
    """One drawn line: `step` int[n], `value` float[n] with NaN for non-finite; `origin` names file and column."""

    name: str
    step: tuple[int, ...]
    value: tuple[float, ...]
    origin: str = ""

    def __post_init__(self) -> None:
        if len(self.step) != len(self.value):
            raise ValueError(f"{self.name}: {len(self.step)} steps and {len(self.value)} values")
        if any(abs(step) >= 2**63 for step in self.step):
            raise ValueError(f"{self.name}: a step of more than 64 bits")

    def __repr__(self) -> str:
        return f"<Trace {plain(self.name, 80)}: {row_range(self.step)}>"


@dataclass(frozen=True)
class PanelReading:
    """What one panel shows of one incident, and the lines to draw."""

    number: int
    slug: str
    title: str
    unit: str = ""
    moved: bool = False
    silent: str = ""  # why the panel shows nothing: columns missing, constant, not logged around the incident
    would_tell: str = ""  # what a silent panel would have shown, and what to log
    summary: str = ""
    log_scale: bool = False
    traces: tuple[Trace, ...] = ()
    image: str = ""  # path relative to the report, "" where not drawn


@dataclass(frozen=True)
class Evidence:
    """One observation of one panel, weighed for (> 0) and against (< 0) named causes, in log-odds."""

    panel: int
    observation: str
    text: str
    step: int | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    origin: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """What a cause predicts for one replay: with any of `changes` (alternatives; () changes nothing) the incident is
    cured, is at least no longer non-finite, persists, follows the data to where it was moved, or does not appear again.
    `early`: the change has to apply from the checkpoint on, and not only from just before the incident."""

    changes: tuple[Change, ...]
    outcome: Literal["cures", "finite", "persists", "follows", "vanishes"]
    early: bool = False


@dataclass(frozen=True)
class Experiment:
    """One replay and its outcome.

    role: R0 nothing changed, R1 the change that a hypothesis names, R2 a placebo, R3 data against state, or "replay"
    for a single replay that the user started. outcome: what happened to the incident; "" where the replay could not be
    judged. excess: the area of the loss above its band, as a share of R0's. run: its folder, relative to the run that
    it replays. unchecked: why the outcome is only what a file says, "" if the replay was judged from its rows.
    """

    role: Literal["R0", "R1", "R2", "R3", "replay"]
    changes: tuple[Change, ...]
    outcome: Literal["cured", "finite", "persists", "follows", "vanished", ""]
    text: str
    excess: float | None = None
    tests: tuple[str, ...] = ()  # the causes that named it
    from_step: int = 0
    steps: int = 0
    seconds: float = 0.0
    run: str = ""
    unchecked: str = ""


@dataclass(frozen=True)
class Hypothesis:
    """A ranked cause. `score` is the sum of log-odds, `probability` its softmax share (uncalibrated)."""

    cause: str
    title: str
    probability: float
    score: float
    strength: Strength
    supported_by: tuple[int, ...] = ()  # panel numbers, strongest first
    ruled_out_by: tuple[int, ...] = ()  # panels that count against it, though they need not rule it out
    indistinguishable_from: tuple[str, ...] = ()
    predictions: tuple[Prediction, ...] = ()  # what replays would have to show


@dataclass(frozen=True)
class Remedy:
    """A remedy with its cost (`side_effect`); one that is not recommended, and why (`declined`); or one that was done
    already, and how (`done`), by the journal.

    `once`: it mends this run and prevents nothing in the next one, so that it teaches little.
    """

    text: str
    side_effect: str = ""
    declined: str = ""
    done: str = ""
    once: bool = False


Relation = Literal["<", "<=", ">", ">=", "finite", "absent"]


@dataclass(frozen=True)
class VerificationCheck:
    """One figure that a fixed run must show: `column` is `relation` `bound` at all steps [first_step, last_step].

    Where it is "absent", the detectors must find nothing of `kind` in `column` ("": in any) that touches these steps. A
    column whose level before these steps was `usual` in the broken run, and is another in the run that is checked, is
    held to the bound in proportion; where `usual` is None, to the bound itself.
    """

    column: str
    first_step: int
    last_step: int
    relation: Relation
    bound: float | None
    text: str
    kind: str = ""
    usual: float | None = None


@dataclass(frozen=True)
class Verification:
    """§6 of the report: a run with `seed`, whose mean loss over `MEAN_ROWS` rows stays at or below `baseline_loss` +
    `epsilon` (nats) through `through_step`, and which passes `checks`. `not_needed` says why nothing has to change, so
    that there is nothing to verify; "" where something has to."""

    seed: int | None
    epsilon: float | None
    baseline_loss: float | None
    through_step: int
    checks: tuple[VerificationCheck, ...]
    command: str
    not_needed: str = ""


@dataclass(frozen=True)
class Token:
    """One decoded piece of a suspect sample; `marked` where its loss is among the batch's worst (`loss`, nats)."""

    text: str
    marked: bool = False
    loss: float | None = None


@dataclass(frozen=True)
class Sample:
    """One sample of the suspect batch, as pieces."""

    sample_id: str
    source: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class Signal:
    """One column's departure, as a detector found it."""

    detector: str
    kind: str
    column: str
    onset_step: int
    peak_step: int
    peak: float
    baseline: float
    score: float
    recovery_step: int | None = None


@dataclass(frozen=True)
class OtherColumn:
    """A column without a known meaning that left its baseline in an incident: its farthest `value`, at `step`."""

    column: str
    step: int
    value: float
    baseline: float


@dataclass(frozen=True)
class Rollback:
    """What the watchdog asks for: go back to the state of `rollback_to_step`, the newest checkpoint at least `margin`
    steps before the onset (None where none is that old; the step itself where no checkpoint is known), and skip
    `skip_batches` batches, those of the window `skip` (indices, half-open). `reason` is a word for the journal."""

    rollback_to_step: int | None
    skip_batches: int
    skip: tuple[int, int]
    reason: str
    margin: int
    checkpoint_seen: bool = True  # False: no checkpoint is known, and the step is where one would have to be


@dataclass(frozen=True)
class WatchdogRule:
    """The settings of the watchdog that searched the run, its rule in words, and why it found nothing: `passed` says
    what of the loss the rule lets pass, "" where there are incidents."""

    ratio: float
    sustain: int
    history: int
    text: str
    passed: str = ""


@dataclass(frozen=True)
class Incident(Occurrence):
    """One incident, with everything that is known about it."""

    id: int
    verdict: Verdict
    summary: str
    symptoms: tuple[Symptom, ...]
    signals: tuple[Signal, ...]
    evidence: tuple[Evidence, ...]
    hypotheses: tuple[Hypothesis, ...]
    panels: tuple[PanelReading, ...]
    root_cause: str  # "" where not known yet
    not_known: str  # why not, and the replay that would decide; "" where the root cause is known
    watch: str  # unresolved only: the level to watch for, and when to roll back at once
    changes: tuple[Remedy, ...]
    verification: Verification | None
    lesson: str
    skip_window: tuple[int, int] | None  # batch indices, half-open
    checkpoint: (
        str  # the newest one before the onset that is known to be finite and full, in the run; "" if there is none
    )
    passed_over: str = ""  # why newer checkpoints were not chosen, in words
    damaged_between: tuple[int, int] | None = None  # (finite at, not finite at): before the onset, by the checkpoints
    samples: tuple[Sample, ...] = ()
    remedy: tuple[Change, ...] | None = None  # of a replay that contains the fix; () changes nothing, None: not known
    experiments: tuple[Experiment, ...] = ()
    proof: str = ""  # what the experiments showed, in a sentence; "" where there is none
    overview: str = ""  # path of the one picture of all drawn panels, relative to the report, "" where not drawn
    done: tuple[str, ...] = ()  # what was done about it, by the journal
    since: str = ""  # what the rows after that show: whether it came back, and where the loss is
    skipped: str = ""  # how the batches of `skip_window` were left out already, "" where they were not
    rollback: Rollback | None = None  # only in mode "watchdog"
    other_moved: tuple[OtherColumn, ...] = ()  # what else moved, in columns that no panel reads; the farthest first

    def __repr__(self) -> str:
        lead = f"; leading hypothesis {plain(self.hypotheses[0].cause, 40)}" if self.hypotheses else ""
        return f"<Incident {self.id}: {self.headline}, {self.outcome}; {self.verdict}{lead}>"

    @property
    def headline(self) -> str:
        """`loss spike at step 312`; where rows are sparse, the interval that contains the onset."""
        interval = self.onset_interval
        onset = f"step {self.onset_step}" if interval is None else f"steps {interval[0] + 1}–{interval[1]}"
        return f"{plain(self.title or self.kind, 40)} at {onset}"


@dataclass(frozen=True)
class RunFacts:
    """The facts about the run in the head of the report."""

    run_id: str
    source: str
    rows: int
    first_step: int | None
    last_step: int | None
    log_every: int | None
    seed: int | None
    dtype: str
    world_size: int | None
    date: str  # the run's end (or start) as YYYY-MM-DD, "" where it is unknown
    resumes: tuple[str, ...] = ()  # "resumed from step 540", oldest first
    segments: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    events: tuple[str, ...] = ()  # what else the journal says of the run, oldest first
    resume_attempts: tuple[int, ...] = ()  # the attempt that each of `resumes` began


@dataclass(frozen=True)
class Diagnosis:
    """Incidents, worst first, with evidence and ranked hypotheses: everything that a report needs, with a version."""

    schema_version: int
    tool: str
    run_id: str
    verdict: Verdict
    run: RunFacts
    incidents: tuple[Incident, ...]
    notes: tuple[str, ...]
    quiet_panels: tuple[
        PanelReading, ...
    ] = ()  # only without incidents: what was checked, and what could not be checked
    watchdog: WatchdogRule | None = None  # the rule by which incidents were searched; None: every detector searched
    not_judged: tuple[str, ...] = ()  # why the absence of incidents says nothing: parts of sentences
    not_covered: tuple[str, ...] = ()  # what the verdict no_incident does not cover: parts of sentences
    incidents_found: int = 0  # `incidents` are the worst of them, and one that was asked for

    def __repr__(self) -> str:
        many = len(self.incidents) > 1
        worst = f"{'the worst: ' if many else ''}{self.incidents[0].headline}" if self.incidents else ""
        incidents = f"; {count(len(self.incidents), 'incident')}, {worst}" if self.incidents else ""
        return f"<Diagnosis of {plain(self.run_id, 60)}: {self.verdict.replace('_', ' ')}{incidents}>"

    def _repr_markdown_(self) -> str | None:
        return markdown(self)

    def to_json(self) -> str:
        """Strict JSON: non-finite numbers become the strings "NaN", "Infinity" and "-Infinity"."""
        return numbers_on_one_line(strict_json(self, ensure_ascii=False))


def leading(incidents: Sequence[Incident]) -> Incident | None:
    """The incident that a report is about unless another is asked for, of `incidents`, the worst first: the worst of
    those that an experiment was about, or else the worst; None where there is none."""
    return next((incident for incident in incidents if incident.proof), incidents[0] if incidents else None)


def load(path: Path) -> Diagnosis:
    """Read a diagnosis file. Raises UnreadableInput where it is not a diagnosis, or has an unknown version."""
    hint = "Draft it again: postmortem draft RUN."

    def check_version(raw: Mapping[str, object]) -> None:
        version = raw.get("schema_version")
        if version != SCHEMA_VERSION:
            reason = f"has schema_version {version!r}; this tool reads {SCHEMA_VERSION}."
            raise UnreadableInput(reason, file=path, hint=hint)

    return read_record(Diagnosis, path, "a diagnosis", hint=hint, check=check_version)


def rank(scores: Mapping[str, float]) -> dict[str, float]:
    """Softmax of log-odds scores (`unknown` must be among them), best first; ties in alphabetical order."""
    top = max(scores.values())
    shares = {cause: math.exp(score - top) for cause, score in scores.items()}
    total = sum(shares.values())
    return {cause: shares[cause] / total for cause in sorted(scores, key=lambda c: (-scores[c], c))}


def strength(probability: float) -> Strength:
    """The word that people read instead of a probability, because it is not calibrated yet."""
    return "strong" if probability >= STRONG else "moderate" if probability >= MODERATE else "weak"
