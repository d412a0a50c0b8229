"""The story in one place: run → incidents → panels → evidence → hypotheses → diagnosis."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias
from weakref import WeakKeyDictionary

from postmortem import diagnosis
from postmortem.assess.experiments import suspect
from postmortem.assess.proof import Proof, load_proofs
from postmortem.assess.run_facts import facts
from postmortem.assess.samples import samples
from postmortem.assess.symptoms import summary, symptoms
from postmortem.assess.verification import verification
from postmortem.assess.weighing import cause_of, evidence, hypotheses, verdict
from postmortem.assess.wording import careful, not_known, open_lesson, watch
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
from postmortem.text import plain
from postmortem.version import __version__

Mode: TypeAlias = Literal["all", "watchdog"]

MAX_INCIDENTS = 20  # in full; a run with more is one that recurs, and says so
REWIND_ROWS = 3000  # how much of its past a discarded stretch is looked at with: enough for any detector's baseline


def diagnose(run: Run, *, text: bool = True, mode: Mode = "all", baseline: Run | None = None) -> Diagnosis:
    """Everything the tool can say of `run`; `text=False` keeps the samples' words out of it (private data).

    In mode "watchdog" only a loss that is held above its rolling baseline is an incident. What `baseline`, another run,
    made of the same batch or step is evidence for data or for state.
    """
    return Examined(run, text=text, mode=mode, baseline=baseline).diagnosis()


class Examined:
    """A run, what detectors found in it and what panels saw of that, each worked out once, when first asked for."""

    def __init__(self, run: Run, *, text: bool = True, mode: Mode = "all", baseline: Run | None = None) -> None:
        self.run, self._text, self._baseline = run, text, baseline
        self._mode: Mode = mode

    @cached_property
    def _weighed(self) -> tuple[_Weighed, ...]:
        found = detect(self.run, self._mode)
        sibling = None if self._baseline is None else Sibling(self._baseline, detect(self._baseline, self._mode))
        return tuple(_weigh(Case(self.run, one, found, self._text, sibling)) for one in found[:MAX_INCIDENTS])

    def diagnosis(self) -> Diagnosis:
        """What is to be said of the run, with the proofs that lie beside it by now."""
        run, notes = self.run, self.run.notes
        try:
            proofs = {one.incident: one for one in load_proofs(run)}
        except UnreadableInput as error:
            proofs, notes = {}, (*notes, str(error))
        incidents = tuple(
            _incident(one, n, proofs.get(one.case.incident.key)) for n, one in enumerate(self._weighed, 1)
        )
        found = len(detect(run, self._mode))
        if found > MAX_INCIDENTS:
            notes = (*notes, f"{found} incidents were found; the {MAX_INCIDENTS} worst are diagnosed in full")
        overall = incidents[0].verdict if incidents else "no_incident"
        quiet = () if incidents else tuple(panel.quiet(run) for panel in panels())
        tool = f"postmortem {__version__}"
        return Diagnosis(diagnosis.SCHEMA_VERSION, tool, plain(run.id), overall, facts(run), incidents, notes, quiet)


class OpenRuns:
    """The runs that one command has to do with: each is read once, when it is first asked for, and examined once."""

    def __init__(self) -> None:
        self._held: dict[Path, Examined] = {}

    def examined(self, path: Path | str) -> Examined:
        """The run at `path`. Raises UnreadableInput where there is none."""
        place = Path(path).resolve()
        if place not in self._held:
            self._held[place] = Examined(open_run(path))
        return self._held[place]

    def run(self, path: Path | str) -> Run:
        """The same, as it was read."""
        return self.examined(path).run


_FOUND: WeakKeyDictionary[Run, dict[Hashable, tuple[DetectedIncident, ...]]] = WeakKeyDictionary()


def detect(run: Run, mode: Mode = "all") -> tuple[DetectedIncident, ...]:
    """Incidents of the effective history and of every stretch that was rolled back, worst first.

    A rolled-back stretch is where the spike is: its rows are judged against the history that led to them. A `Run` is
    what was read at one time and does not change, so that each is searched once.
    """
    held = _FOUND.setdefault(run, {})
    by = (mode, detectors())
    if by not in held:
        held[by] = _detected(run, mode)
    return held[by]


def _detected(run: Run, mode: Mode) -> tuple[DetectedIncident, ...]:
    restarts = tuple(s.first_step for s in run.segments if s.attempt > 0)
    saved = tuple(c.step for c in run.checkpoints if c.complete)
    found = [
        dataclasses.replace(one, attempt=_attempt(run, one.onset_step))
        for one in find_incidents(_telemetry(run, None, restarts), mode=mode, checkpoints=saved)
    ]
    for segment in (s for s in run.segments if s.discarded):
        t = _telemetry(
            run, segment.attempt, tuple(r for r in restarts if r < segment.kept_until), since=segment.kept_until
        )
        found += [
            dataclasses.replace(one, attempt=segment.attempt, discarded=True)
            for one in find_incidents(t, mode=mode, checkpoints=saved)
            if one.peak_step >= max(segment.kept_until, segment.first_step)
        ]
    return tuple(sorted(found, key=lambda one: (-one.severity, one.onset_step, one.attempt)))


def _attempt(run: Run, step: int) -> int:
    """The attempt whose row of `step` is in the effective history."""
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
    """An incident with what panels saw of it, before what replays have shown."""

    case: Case
    readings: tuple[PanelReading, ...]
    seen: Mapping[str, Observation]
    evidence: tuple[Evidence, ...]
    ranked: tuple[Hypothesis, ...]


def _weigh(case: Case) -> _Weighed:
    readings, seen = _look(case)
    weighed = evidence(case, seen)
    by_slug = {o.slug: o for _, o in seen}
    ranked = hypotheses(weighed, {one.slug: one.predicts(suspect(case, one, by_slug)) for one in causes()})
    return _Weighed(case, readings, by_slug, weighed, ranked)


def _incident(weighed: _Weighed, ident: int, proof: Proof | None) -> diagnosis.Incident:
    case, by_slug, ranked, found = weighed.case, weighed.seen, weighed.ranked, weighed.case.incident
    decided = verdict(ranked, weighed.evidence)
    cause = cause_of(ranked)
    if proof is not None and proof.text:  # what replays have shown outweighs what panels suggest
        decided = proof.verdict
        cause = next((one for one in causes() if one.slug == proof.cause), cause)
    window = case.batch_window(cause.skip_rows(case, by_slug) if cause and cause.skip_rows else None)
    proven = proof is not None and bool(proof.cause)
    known = cause if cause is not None and (proven or decided == "supported") else None
    return diagnosis.Incident(
        **shared_facts(found),
        id=ident,
        verdict=decided,
        summary=summary(case),
        symptoms=symptoms(case),
        signals=tuple(
            Signal(
                f.detector, f.kind, f.column, f.onset_step, f.peak_step, f.peak, f.baseline, f.score, f.recovery_step
            )
            for f in found.findings
        ),
        evidence=weighed.evidence,
        hypotheses=ranked,
        panels=weighed.readings,
        root_cause=known.sentence(case, by_slug) if known else "",
        not_known="" if known else not_known(case, ranked, proof.text if proof else ""),
        watch=watch(case),
        changes=cause.changes(case, by_slug) if known and cause else careful(case, cause, window),
        verification=verification(case),
        lesson=known.lesson if known else open_lesson(case, cause),
        skip_window=None if known is not None and known.skip_rows is None else window,
        checkpoint=_inside(run=case.run, path=case.checkpoint.path) if case.checkpoint else "",
        remedy=known.remedy(suspect(case, known, by_slug)) if known and known.remedy else None,
        experiments=proof.experiments if proof else (),
        proof=proof.text if proof else "",
        samples=samples(case) if case.text else (),
    )


def _look(case: Case) -> tuple[tuple[PanelReading, ...], list[tuple[int, Observation]]]:
    """Every panel's reading, and all observations with the number of the panel that made them."""
    readings: list[PanelReading] = []
    seen: list[tuple[int, Observation]] = []
    for panel in panels():
        reading, observations = panel.read(case)
        readings.append(reading)
        seen += [(panel.number, o) for o in observations]
    return tuple(readings), seen


def _inside(run: Run, path: Path) -> str:
    """A path as the run's own directory sees it."""
    return plain(path.relative_to(run.root) if run.root and path.is_relative_to(run.root) else path, 500)
