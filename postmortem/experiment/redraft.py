"""Drafting a run's report again after replays have shown something."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from postmortem import report
from postmortem.atomic import check_inside
from postmortem.diagnosis import Diagnosis, Experiment, Incident
from postmortem.experiment.finished import bring_in
from postmortem.experiment.record_outcome import record_outcome
from postmortem.experiment.target import ExperimentTarget
from postmortem.panels import draw_panel
from postmortem.pipeline import OpenRuns
from postmortem.proof.stored_proofs import FILE, Proof, earlier_proofs, store_proof
from postmortem.replay.branch import replayable_root
from postmortem.replay.spec import ReplaySpec
from postmortem.run.replayed import ReplayResult


@dataclass(frozen=True)
class Redraft:
    """A report that was drafted again, and the incident as it says now."""

    report: Path
    diagnosis: Diagnosis
    incident: Incident


def redraft(run: Path, proof: Proof, runs: OpenRuns) -> Redraft:
    """Write the report on the incident that `proof` is about."""
    diagnosis = runs.examined(run).diagnosis()
    incident = next(incident for incident in diagnosis.incidents if incident.key == proof.incident)
    out, within = report.default_out(run), report.run_folder(run)
    written = report.write_report(diagnosis, out, draw=draw_panel, incident=incident.id, within=within)
    return Redraft(written, diagnosis, incident)


def check_keepable(run: Path, target: ExperimentTarget) -> None:
    """Raise what `keep_proof` would raise about the places that it writes, before anything is driven."""
    root = replayable_root(target.run)
    check_inside(root / FILE, root)
    report.check_report(report.default_out(run), within=report.run_folder(run))


def keep_proof(run: Path, target: ExperimentTarget, proof: Proof) -> Redraft:
    """Keep a proof and its replays beside its run, and draft the report with it: see `redraft`. Raises CannotWrite."""
    root = replayable_root(target.run)
    proof = bring_in(target, proof)
    store_proof(root, proof, earlier_proofs(target.run))
    return redraft(run, proof, target.runs)


def report_outcome(spec: ReplaySpec, result: ReplayResult, runs: OpenRuns) -> tuple[Proof, Experiment] | None:
    """Keep the outcome of a replay, see `record_outcome`, and draft the run's report with it if there is one.

    Raises CannotWrite, and UsageError where the report's place contains something else.
    """
    recorded = record_outcome(spec, result, runs)
    run = Path(spec.run)
    if recorded is not None and (report.default_out(run) / report.DIAGNOSIS).is_file():
        redraft(run, recorded[0], runs)
    return recorded
