"""Records what a single replay says about an incident, so that the run's report shows it from then on."""

from __future__ import annotations

from pathlib import Path

from postmortem.atomic import real_path
from postmortem.diagnosis import Experiment, Incident
from postmortem.pipeline import OpenRuns
from postmortem.proof.judge import EARLY_STEPS, last_needed_step
from postmortem.proof.single import judge_single
from postmortem.proof.stored_proofs import Proof, add_experiment, earlier_proofs, store_proof
from postmortem.replay.branch import replayable_root
from postmortem.replay.spec import ReplaySpec
from postmortem.run.replayed import ReplayResult
from postmortem.text import relative_path


def record_outcome(spec: ReplaySpec, result: ReplayResult, runs: OpenRuns) -> tuple[Proof, Experiment] | None:
    """Judge a replay by the worst incident of its run in the replayed steps, and store the outcome beside the run's
    report. Returns None if there is no such incident.

    Raises:
        CannotWrite: the run's folder cannot be written.
    """
    examined = runs.examined(spec.run)
    run, replayed = examined.run, runs.run(spec.out)
    incident = next(
        (incident for incident in examined.diagnosis(proven=False).incidents if _covers(incident, spec)), None
    )
    if incident is None:
        return None
    root, out = replayable_root(run), real_path(Path(spec.out))
    path = relative_path(out, real_path(root))
    experiment = judge_single(run, incident, replayed, result, spec.changes, spec.attempt, path)
    proofs = earlier_proofs(run)
    proof_so_far = next((proof for proof in proofs if proof.incident == incident.key), None)
    proof = add_experiment(proof_so_far, incident.key, experiment)
    store_proof(root, proof, proofs)
    return proof, experiment


def _covers(incident: Incident, spec: ReplaySpec) -> bool:
    """Whether the replay covers the incident, on the same lineage, and goes far enough to see it."""
    last = last_needed_step(incident) + EARLY_STEPS
    return incident.lineage == spec.attempt and spec.from_step <= incident.onset_step and last < spec.until
