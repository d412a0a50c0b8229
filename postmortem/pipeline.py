"""Diagnoses a run by calling each stage in turn: detectors → panels → weighing of causes → diagnosis."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias
from weakref import WeakKeyDictionary

from postmortem import diagnosis
from postmortem.assess.run_facts import run_facts
from postmortem.assess.samples import samples
from postmortem.assess.stored_proofs import Proof, load_proofs
from postmortem.assess.suspect import suspect_for
from postmortem.assess.symptoms import summary, symptoms
from postmortem.assess.verification import verification
from postmortem.assess.weighing import leading_cause, panel_verdict, rank_causes, weigh
from postmortem.assess.wording import cautious_remedies, lesson_without_cause, watch_advice, why_not_known
from postmortem.case import Case, Observation, Sibling
from postmortem.causes import causes
from postmortem.detectors import DetectedIncident, LabelArrays, Telemetry, detectors, find_incidents
from postmortem.diagnosis import Diagnosis, Evidence, Hypothesis, PanelReading, Signal
from postmortem.errors import UnreadableInput
from postmortem.incident import facts as shared_facts
from postmortem.panels import panels
from postmortem.run import Run
from postmortem.series import Series
from postmortem.sources import open_run
from postmortem.text import plain, relative_path
from postmortem.version import __version__

Mode: TypeAlias = Literal["all", "watchdog"]

MAX_INCIDENTS = 20  # diagnosed in full; in a run with more, incidents recur, and the notes say so
REWIND_ROWS = 3000  # rows before a discarded stretch that detectors get: enough for the baseline of each


def diagnose(run: Run, *, text: bool = True, mode: Mode = "all", baseline: Run | None = None) -> Diagnosis:
    """The diagnosis of `run`; `text=False` keeps the text of samples out of it (private data).

    In mode "watchdog" only a loss that stays above its rolling baseline is an incident. `baseline` is another run: what
    happened there at the same batch or step is evidence for data or for state.
    """
    return Examined(run, text=text, mode=mode, baseline=baseline).diagnosis()


class Examined:
    """A run with its incidents and the readings of the panels, each computed once, at its first use."""

    def __init__(self, run: Run, *, text: bool = True, mode: Mode = "all", baseline: Run | None = None) -> None:
        self.run, self._text, self._baseline = run, text, baseline
        self._mode: Mode = mode

    @cached_property
    def _weighed(self) -> tuple[_Weighed, ...]:
        incidents = detect(self.run, self._mode)
        sibling = None if self._baseline is None else Sibling(self._baseline, detect(self._baseline, self._mode))
        worst = incidents[:MAX_INCIDENTS]
        return tuple(_weigh(Case(self.run, incident, incidents, self._text, sibling)) for incident in worst)

    def diagnosis(self) -> Diagnosis:
        """The diagnosis of the run, with the proofs that are stored beside it at this time."""
        run, notes = self.run, self.run.notes
        try:
            proofs = {proof.incident: proof for proof in load_proofs(run)}
        except UnreadableInput as error:
            proofs, notes = {}, (*notes, str(error))
        incidents = tuple(
            _incident(weighed, n, proofs.get(weighed.case.incident.key)) for n, weighed in enumerate(self._weighed, 1)
        )
        detected = len(detect(run, self._mode))
        if detected > MAX_INCIDENTS:
            notes = (*notes, f"{detected} incidents were found; the {MAX_INCIDENTS} worst are diagnosed in full")
        overall = incidents[0].verdict if incidents else "no_incident"
        quiet = () if incidents else tuple(panel.quiet(run) for panel in panels())
        tool = f"postmortem {__version__}"
        return Diagnosis(
            diagnosis.SCHEMA_VERSION, tool, plain(run.id), overall, run_facts(run), incidents, notes, quiet
        )


class OpenRuns:
    """The runs that one command uses: each is read once, at its first use, and examined once."""

    def __init__(self) -> None:
        self._examined: dict[Path, Examined] = {}

    def examined(self, path: Path | str) -> Examined:
        """The run at `path`. Raises UnreadableInput where there is none."""
        absolute = Path(path).resolve()
        if absolute not in self._examined:
            self._examined[absolute] = Examined(open_run(path))
        return self._examined[absolute]

    def run(self, path: Path | str) -> Run:
        """The run at `path`, as it was read."""
        return self.examined(path).run


_DETECTED: WeakKeyDictionary[Run, dict[Hashable, tuple[DetectedIncident, ...]]] = WeakKeyDictionary()


def detect(run: Run, mode: Mode = "all") -> tuple[DetectedIncident, ...]:
    """Incidents of the effective history and of every stretch that was rolled back, worst first.

    A rolled-back stretch contains the spike that caused the rollback: its rows are judged against the history before
    them. A `Run` does not change after it was read, so that each is searched once.
    """
    detected = _DETECTED.setdefault(run, {})
    key = (mode, detectors())
    if key not in detected:
        detected[key] = _search(run, mode)
    return detected[key]


def _search(run: Run, mode: Mode) -> tuple[DetectedIncident, ...]:
    restarts = tuple(s.first_step for s in run.segments if s.attempt > 0)
    saved = tuple(c.step for c in run.checkpoints if c.complete)
    incidents = [
        dataclasses.replace(incident, attempt=_attempt(run, incident.onset_step))
        for incident in find_incidents(_telemetry(run, None, restarts), mode=mode, checkpoints=saved)
    ]
    for segment in (s for s in run.segments if s.discarded):
        t = _telemetry(
            run, segment.attempt, tuple(r for r in restarts if r < segment.kept_until), since=segment.kept_until
        )
        incidents += [
            dataclasses.replace(incident, attempt=segment.attempt, discarded=True)
            for incident in find_incidents(t, mode=mode, checkpoints=saved)
            if incident.peak_step >= max(segment.kept_until, segment.first_step)
        ]
    return tuple(sorted(incidents, key=lambda incident: (-incident.severity, incident.onset_step, incident.attempt)))


def _attempt(run: Run, step: int) -> int:
    """The attempt whose row of `step` belongs to the effective history."""
    return max((s.attempt for s in run.segments if s.first_step <= step), default=0)


def _telemetry(run: Run, attempt: int | None, restarts: tuple[int, ...], since: int | None = None) -> Telemetry:
    first = None if since is None else int(run.row_steps[max(0, int(run.row_steps.searchsorted(since)) - REWIND_ROWS)])

    def series(name: str) -> Series | None:
        whole = run.series(name, attempt=attempt)
        return whole if whole is None or first is None else whole.window(first, 2**62)

    def labels(name: str) -> LabelArrays | None:
        whole = run.labels(name, attempt=attempt)
        return None if whole is None else (whole.step, whole.value)

    rows = run.steps(attempt=attempt)
    return Telemetry(series, run.columns, rows if first is None else rows[rows >= first], labels, restarts)


@dataclass(frozen=True)
class _Weighed:
    """An incident with the readings of the panels and the ranked causes, before the results of replays."""

    case: Case
    readings: tuple[PanelReading, ...]
    observed: Mapping[str, Observation]
    evidence: tuple[Evidence, ...]
    ranked: tuple[Hypothesis, ...]


def _weigh(case: Case) -> _Weighed:
    readings, observations = _read_panels(case)
    evidence = weigh(case, observations)
    observed = {o.slug: o for _, o in observations}
    predictions = {cause.slug: cause.predicts(suspect_for(case, cause, observed)) for cause in causes()}
    return _Weighed(case, readings, observed, evidence, rank_causes(evidence, predictions))


def _incident(weighed: _Weighed, ident: int, proof: Proof | None) -> diagnosis.Incident:
    case, observed, ranked = weighed.case, weighed.observed, weighed.ranked
    verdict, cause = panel_verdict(ranked, weighed.evidence), leading_cause(ranked)
    if proof is not None and proof.text:  # replays outweigh panels
        verdict = proof.verdict
        cause = next((confirmed for confirmed in causes() if confirmed.slug == proof.cause), cause)
    window = case.batch_window(
        cause.suspect_batch_count(case, observed) if cause and cause.suspect_batch_count else None
    )
    proven = proof is not None and bool(proof.cause)
    known = cause if cause is not None and (proven or verdict == "supported") else None
    return diagnosis.Incident(
        **shared_facts(case.incident),
        id=ident,
        verdict=verdict,
        summary=summary(case),
        symptoms=symptoms(case),
        signals=tuple(
            Signal(
                f.detector, f.kind, f.column, f.onset_step, f.peak_step, f.peak, f.baseline, f.score, f.recovery_step
            )
            for f in case.incident.findings
        ),
        evidence=weighed.evidence,
        hypotheses=ranked,
        panels=weighed.readings,
        root_cause=known.root_cause_sentence(case, observed) if known else "",
        not_known="" if known else why_not_known(case, ranked, proof.text if proof else ""),
        watch=watch_advice(case),
        changes=known.remedies(case, observed) if known else cautious_remedies(case, cause, window),
        verification=verification(case),
        lesson=known.lesson if known else lesson_without_cause(case, cause),
        skip_window=None if known is not None and known.suspect_batch_count is None else window,
        checkpoint=_relative(case.run, case.checkpoint.path) if case.checkpoint else "",
        remedy=known.fix(suspect_for(case, known, observed)) if known and known.fix else None,
        experiments=proof.experiments if proof else (),
        proof=proof.text if proof else "",
        samples=samples(case) if case.text else (),
    )


def _read_panels(case: Case) -> tuple[tuple[PanelReading, ...], list[tuple[int, Observation]]]:
    """Every panel's reading, and all observations with the number of their panel."""
    readings: list[PanelReading] = []
    numbered: list[tuple[int, Observation]] = []
    for panel in panels():
        reading, observations = panel.read(case)
        readings.append(reading)
        numbered += [(panel.number, o) for o in observations]
    return tuple(readings), numbered


def _relative(run: Run, path: Path) -> str:
    """`path` relative to the run's directory, if it is inside."""
    return plain(relative_path(path, run.root), 500)
