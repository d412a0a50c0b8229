"""Drafting a run's report again after replays have shown something."""

from __future__ import annotations

from pathlib import Path

from postmortem import report
from postmortem.assess.stored_proofs import Proof, earlier_proofs, store_proof
from postmortem.diagnosis import Experiment, Incident
from postmortem.experiment.record_outcome import record_outcome
from postmortem.experiment.target import ExperimentTarget
from postmortem.panels import draw_panel
from postmortem.pipeline import OpenRuns
from postmortem.replay.branch import explained_write_errors, replayable_root
from postmortem.replay.result import ReplayResult
from postmortem.replay.spec import ReplaySpec


def redraft(run: Path, proof: Proof, runs: OpenRuns) -> tuple[Path, Incident]:
    """Write the report on the incident that `proof` is about; (path of the report, the incident as it says now)."""
    diagnosis = runs.examined(run).diagnosis()
    incident = next(incident for incident in diagnosis.incidents if incident.key == proof.incident)
    return report.write_report(diagnosis, report.default_out(run), draw=draw_panel, incident=incident.id), incident


def keep_proof(run: Path, target: ExperimentTarget, proof: Proof) -> tuple[Path, Incident]:
    """Keep a proof beside its run, and draft the report with it: see `redraft`. Raises CannotWrite."""
    root = replayable_root(target.run)
    with explained_write_errors(root):
        store_proof(root, proof, earlier_proofs(target.run))
    return redraft(run, proof, target.runs)


def report_outcome(spec: ReplaySpec, result: ReplayResult, runs: OpenRuns) -> tuple[Proof, Experiment] | None:
    """Keep the outcome of a replay, see `record_outcome`, and draft the run's report with it if there is one.

    Raises OSError: the run cannot be written.
    """
    recorded = record_outcome(spec, result, runs)
    run = Path(spec.run)
    if recorded is not None and (report.default_out(run) / report.DIAGNOSIS).is_file():
        redraft(run, recorded[0], runs)
    return recorded
