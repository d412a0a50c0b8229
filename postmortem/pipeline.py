"""Diagnoses a run by calling each stage in turn: detectors → panels → weighing of causes → diagnosis."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from postmortem import diagnosis
from postmortem.assess.aftermath import aftermath
from postmortem.assess.detection import detect
from postmortem.assess.judged import not_covered, why_not_judged
from postmortem.assess.other_columns import other_columns_moved
from postmortem.assess.run_facts import run_facts
from postmortem.assess.samples import samples
from postmortem.assess.suspect import suspect_for, suspect_window
from postmortem.assess.symptoms import summary, symptoms
from postmortem.assess.verification import verification
from postmortem.assess.watchdog import quiet_reading, rollback, watchdog_rule
from postmortem.assess.weighing import backed_causes, leading_cause, panel_verdict, rank_causes, weigh
from postmortem.assess.wording import (
    cautious_remedies,
    fact_without_cause,
    lesson,
    passed_over,
    watch_advice,
    why_not_known,
)
from postmortem.case import Case, Observation, Sibling
from postmortem.causes import causes
from postmortem.detectors import DetectedIncident, Mode, Watchdog, watchdog_of
from postmortem.diagnosis import Diagnosis, Evidence, Hypothesis, PanelReading, Signal
from postmortem.errors import UnreadableInput
from postmortem.incident import IncidentKey
from postmortem.incident import facts as shared_facts
from postmortem.panels import panels
from postmortem.report.select import WORST, IncidentChoice, incident_at
from postmortem.run import Run
from postmortem.shown import Shown
from postmortem.sources import open_run
from postmortem.text import plain, relative_path
from postmortem.version import __version__

if TYPE_CHECKING:
    from postmortem.proof.check import CheckedProof
    from postmortem.proof.stored_proofs import Proof

MAX_INCIDENTS = 20  # diagnosed in full unasked; in a run with more, incidents recur, and the notes say so


def diagnose(
    run: Run,
    *,
    text: bool = True,
    mode: Mode = "all",
    baseline: Run | None = None,
    asked: IncidentChoice = WORST,
) -> Diagnosis:
    """The diagnosis of `run`; `text=False` keeps the text of samples out of it (private data).

    In mode "watchdog", or with a `Watchdog` of other settings, only a loss that stays above its rolling baseline is an
    incident. `baseline` is another run: what happened there at the same batch or step is evidence for data or state.
    The incident that is `asked` for is in it wherever it ranks among the others.
    """
    return Examined(run, text=text, mode=mode, baseline=baseline).diagnosis(asked)


def gravest(runs: Iterable[Run], mode: Mode = "all") -> Run:
    """The run whose worst incident is the most severe; the first run where none has an incident.

    Raises:
        ValueError: no runs.
    """
    return max(runs, key=lambda run: max((incident.severity for incident in detect(run, mode)), default=-1.0))


class Examined:
    """A run with its incidents and the readings of the panels, each computed once, at its first use."""

    def __init__(
        self,
        run: Run,
        *,
        text: bool = True,
        mode: Mode = "all",
        baseline: Run | None = None,
        open_replay: Callable[[Path], Run] = open_run,
    ) -> None:
        self.run, self._text, self._baseline, self._open = run, text, baseline, open_replay
        self._mode: Mode = mode
        self._watchdog = watchdog_of(mode)
        self._checked: dict[Proof, CheckedProof] = {}

        self._weighed: dict[int, _Weighed] = {}

    def _weigh(self, number: int) -> _Weighed:
        """The incident with this number, weighed once."""
        if number not in self._weighed:
            case = Case(self.run, self._all_incidents[number - 1], self._all_incidents, self._text, self._sibling)
            self._weighed[number] = _weigh(case)
        return self._weighed[number]

    @cached_property
    def _all_incidents(self) -> tuple[DetectedIncident, ...]:
        """All incidents, the worst first: the number of an incident is its place here, counted from 1."""
        return detect(self.run, self._mode)

    @cached_property
    def _sibling(self) -> Sibling | None:
        return None if self._baseline is None else Sibling(self._baseline, detect(self._baseline, self._mode))

    def _numbers(self, asked: IncidentChoice, proven: Collection[IncidentKey], row_step: int) -> list[int]:
        """The numbers of the incidents that are diagnosed: of the worst, of the one asked for, and of the proven."""
        at = None if asked.at is None else incident_at(self._all_incidents, asked.at, row_step)
        return [
            n
            for n, incident in enumerate(self._all_incidents, 1)
            if n <= MAX_INCIDENTS or n == asked.number or incident is at or incident.key in proven
        ]

    @np.errstate(all="ignore")  # a log may contain any float: what overflows is a finding, not a warning on stderr
    def diagnosis(self, asked: IncidentChoice = WORST, *, proven: bool = True) -> Diagnosis:
        """The diagnosis of the run, with the proofs that are stored beside it at this time, as far as their replays
        bear them out; without them, what the panels say. The incident that is `asked` for is in it wherever it ranks.
        """
        run, facts = self.run, run_facts(self.run)
        proofs, more_notes = self._proofs() if proven else ({}, [])
        incidents: list[diagnosis.Incident] = []
        for n in self._numbers(asked, proofs.keys(), facts.log_every or 1):
            incident = _incident(self._weigh(n), n, None, self._watchdog)
            if incident.key in proofs:
                checked = self._check(proofs[incident.key], incident)
                incident = _incident(self._weigh(n), n, checked, self._watchdog)
                more_notes += [checked.note] if checked.note else []
            incidents.append(incident)
        if len(self._all_incidents) > MAX_INCIDENTS:
            others = f"the {MAX_INCIDENTS} worst are diagnosed in full, and any other by --incident N or --at STEP"
            more_notes.append(f"{len(self._all_incidents)} incidents were found; {others}")
        if self._watchdog is None:
            rule, not_judged = None, () if incidents else why_not_judged(run)
        else:
            rule, not_judged = watchdog_rule(run, self._watchdog, has_incident=bool(incidents))
        leading = diagnosis.leading(incidents)
        overall = leading.verdict if leading is not None else "not_judged" if not_judged else "no_incident"
        quiet = () if incidents else tuple(panel.quiet(run) for panel in panels())
        if rule is not None:
            quiet = tuple(quiet_reading(reading, rule) for reading in quiet)
        tool = f"postmortem {__version__}"
        return Diagnosis(
            diagnosis.SCHEMA_VERSION,
            tool,
            plain(run.id),
            overall,
            facts,
            tuple(incidents),
            (*run.notes, *more_notes),
            quiet,
            rule,
            not_judged=not_judged,
            not_covered=not_covered(run) if overall == "no_incident" and rule is None else (),
            incidents_found=len(self._all_incidents),
        )

    def _proofs(self) -> tuple[dict[IncidentKey, Proof], list[str]]:
        """(the stored proofs by their incidents, notes about what cannot be read)."""
        if self.run.root is None:
            return {}, []
        from postmortem.proof.stored_proofs import load_proofs

        try:
            return {proof.incident: proof for proof in load_proofs(self.run)}, []
        except UnreadableInput as error:
            return {}, [str(error)]

    def _check(self, proof: Proof, incident: diagnosis.Incident) -> CheckedProof:
        from postmortem.proof.check import check_proof

        if proof not in self._checked:
            if self._baseline is not None:  # the experiment was designed without a sibling
                without = Examined(self.run, text=self._text, mode=self._mode)
                alone = without.diagnosis(IncidentChoice(incident.id), proven=False)
                incident = next(same for same in alone.incidents if same.key == incident.key)
            self._checked[proof] = check_proof(self.run, incident, proof, self._open)
        return self._checked[proof]


class OpenRuns:
    """The runs that one command uses: each is read once, at its first use, and examined once."""

    def __init__(self) -> None:
        self._examined: dict[Path, Examined] = {}

    def examined(self, path: Path | str) -> Examined:
        """The run at `path`. Raises UnreadableInput where there is none."""
        absolute = Path(path).resolve()
        if absolute not in self._examined:
            self._examined[absolute] = Examined(open_run(path), open_replay=self._passing_run)
        return self._examined[absolute]

    def _passing_run(self, path: Path) -> Run:
        """The run at `path`, which is kept only if it was already used: a large run has large replays."""
        examined = self._examined.get(path.resolve())
        return open_run(path) if examined is None else examined.run

    def run(self, path: Path | str) -> Run:
        """The run at `path`, as it was read."""
        return self.examined(path).run


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


def _cautious(case: Case, ranked: Sequence[Hypothesis], window: tuple[int, int]) -> tuple[diagnosis.Remedy, ...]:
    """§5 without a root cause: of batches only where more speaks for a cause of that kind than against it, or where
    they were skipped."""
    guesses = backed_causes(ranked)
    batches = any(guess.suspect_batch_count is not None for guess in guesses) or case.response.skipped(window)
    return cautious_remedies(case, next(iter(guesses), None), window if batches else None)


def _incident(
    weighed: _Weighed, ident: int, proof: CheckedProof | None, watchdog: Watchdog | None
) -> diagnosis.Incident:
    case, observed, ranked = weighed.case, weighed.observed, weighed.ranked
    if proof is not None:
        case = copy.copy(case)  # with all that it has computed
        case.shown = Shown.by(proof.experiments)
    verdict, cause = panel_verdict(ranked, weighed.evidence), leading_cause(ranked)
    if proof is not None and proof.verdict is not None:  # replays outweigh panels
        verdict = proof.verdict
        cause = next((confirmed for confirmed in causes() if confirmed.slug == proof.cause), cause)
    proven = proof is not None and bool(proof.cause)
    known = cause if cause is not None and (proven or verdict == "supported") else None
    window = suspect_window(case, cause, observed)
    if known is None and case.shown.batches is not None:
        window = case.shown.batches
    remedy = known.fix(suspect_for(case, known, observed)) if known and known.fix else None
    remedy = case.shown.fix if known is None else remedy
    expected = verification(case, known, remedy or ())
    remedies = known.remedies(case, observed) if known else _cautious(case, ranked, window)
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
        changes=remedies,
        verification=expected,
        lesson=lesson(known.lesson if known else fact_without_cause(case), remedies),
        skip_window=None if known is not None and known.suspect_batch_count is None else window,
        checkpoint=_relative(case.run, case.checkpoint.path) if case.checkpoint else "",
        passed_over=passed_over(case),
        damaged_between=case.damaged_between,
        remedy=remedy,
        experiments=proof.experiments if proof else (),
        proof=proof.text if proof else "",
        samples=samples(case) if case.text else (),
        done=tuple(action.text for action in case.response.actions),
        since=aftermath(case, expected),
        skipped=case.response.skipped(window),
        rollback=None if watchdog is None else rollback(case, watchdog),
        other_moved=other_columns_moved(case),
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
