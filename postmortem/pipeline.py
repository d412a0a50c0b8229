"""Diagnoses a run by calling each stage in turn: detectors → panels → weighing of causes → diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from postmortem import diagnosis
from postmortem.assess.aftermath import aftermath
from postmortem.assess.detection import detect
from postmortem.assess.run_facts import run_facts
from postmortem.assess.samples import samples
from postmortem.assess.suspect import suspect_for, suspect_window
from postmortem.assess.symptoms import summary, symptoms
from postmortem.assess.verification import verification
from postmortem.assess.watchdog import quiet_reading, rollback, watchdog_rule
from postmortem.assess.weighing import leading_cause, panel_verdict, rank_causes, weigh
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
from postmortem.detectors import Mode, Watchdog, watchdog_of
from postmortem.diagnosis import Diagnosis, Evidence, Hypothesis, PanelReading, Signal
from postmortem.errors import UnreadableInput
from postmortem.incident import facts as shared_facts
from postmortem.panels import panels
from postmortem.proof.check import CheckedProof, check_proof
from postmortem.proof.stored_proofs import Proof, load_proofs
from postmortem.run import Run
from postmortem.sources import open_run
from postmortem.text import plain, relative_path
from postmortem.version import __version__

MAX_INCIDENTS = 20  # diagnosed in full; in a run with more, incidents recur, and the notes say so


def diagnose(run: Run, *, text: bool = True, mode: Mode = "all", baseline: Run | None = None) -> Diagnosis:
    """The diagnosis of `run`; `text=False` keeps the text of samples out of it (private data).

    In mode "watchdog", or with a `Watchdog` of other settings, only a loss that stays above its rolling baseline is an
    incident. `baseline` is another run: what happened there at the same batch or step is evidence for data or state.
    """
    return Examined(run, text=text, mode=mode, baseline=baseline).diagnosis()


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

    @cached_property
    @np.errstate(all="ignore")  # a log may contain any float: what overflows is a finding, not a warning on stderr
    def _weighed(self) -> tuple[_Weighed, ...]:
        incidents = detect(self.run, self._mode)
        sibling = None if self._baseline is None else Sibling(self._baseline, detect(self._baseline, self._mode))
        worst = incidents[:MAX_INCIDENTS]
        return tuple(_weigh(Case(self.run, incident, incidents, self._text, sibling)) for incident in worst)

    @np.errstate(all="ignore")
    def diagnosis(self, *, proven: bool = True) -> Diagnosis:
        """The diagnosis of the run, with the proofs that are stored beside it at this time, as far as their replays
        bear them out; without them, what the panels say."""
        run, notes = self.run, self.run.notes
        incidents = tuple(_incident(weighed, n, None, self._watchdog) for n, weighed in enumerate(self._weighed, 1))
        if proven:
            incidents, more = self._with_proofs(incidents)
            notes = (*notes, *more)
        detected = len(detect(run, self._mode))
        if detected > MAX_INCIDENTS:
            notes = (*notes, f"{detected} incidents were found; the {MAX_INCIDENTS} worst are diagnosed in full")
        overall = incidents[0].verdict if incidents else "no_incident"
        rule = None if self._watchdog is None else watchdog_rule(run, self._watchdog, has_incident=bool(incidents))
        quiet = () if incidents else tuple(panel.quiet(run) for panel in panels())
        if rule is not None:
            quiet = tuple(quiet_reading(reading, rule) for reading in quiet)
        tool = f"postmortem {__version__}"
        return Diagnosis(
            diagnosis.SCHEMA_VERSION, tool, plain(run.id), overall, run_facts(run), incidents, notes, quiet, rule
        )

    def _with_proofs(
        self, incidents: tuple[diagnosis.Incident, ...]
    ) -> tuple[tuple[diagnosis.Incident, ...], list[str]]:
        """(the incidents with what replays have shown of them, notes about proofs that show nothing)."""
        try:
            proofs = {proof.incident: proof for proof in load_proofs(self.run)}
        except UnreadableInput as error:
            return incidents, [str(error)]
        shown, notes = list(incidents), list[str]()
        for n, (weighed, incident) in enumerate(zip(self._weighed, incidents, strict=True)):
            if incident.key in proofs:
                checked = self._check(proofs[incident.key], incident)
                shown[n] = _incident(weighed, incident.id, checked, self._watchdog)
                notes += [checked.note] if checked.note else []
        return tuple(shown), notes

    def _check(self, proof: Proof, incident: diagnosis.Incident) -> CheckedProof:
        if proof not in self._checked:
            if self._baseline is not None:  # the experiment was designed without a sibling
                alone = Examined(self.run, text=self._text, mode=self._mode).diagnosis(proven=False)
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


def _incident(
    weighed: _Weighed, ident: int, proof: CheckedProof | None, watchdog: Watchdog | None
) -> diagnosis.Incident:
    case, observed, ranked = weighed.case, weighed.observed, weighed.ranked
    verdict, cause = panel_verdict(ranked, weighed.evidence), leading_cause(ranked)
    if proof is not None and proof.verdict is not None:  # replays outweigh panels
        verdict = proof.verdict
        cause = next((confirmed for confirmed in causes() if confirmed.slug == proof.cause), cause)
    window = suspect_window(case, cause, observed)
    proven = proof is not None and bool(proof.cause)
    known = cause if cause is not None and (proven or verdict == "supported") else None
    expected = verification(case)
    remedies = known.remedies(case, observed) if known else cautious_remedies(case, cause, window)
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
        lesson=lesson(known.lesson if known else fact_without_cause(case, cause), remedies),
        skip_window=None if known is not None and known.suspect_batch_count is None else window,
        checkpoint=_relative(case.run, case.checkpoint.path) if case.checkpoint else "",
        passed_over=passed_over(case),
        damaged_between=case.damaged_between,
        remedy=known.fix(suspect_for(case, known, observed)) if known and known.fix else None,
        experiments=proof.experiments if proof else (),
        proof=proof.text if proof else "",
        samples=samples(case) if case.text else (),
        done=tuple(action.text for action in case.response.actions),
        since=aftermath(case, expected),
        skipped=case.response.skipped(window),
        rollback=None if watchdog is None else rollback(case, watchdog),
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
