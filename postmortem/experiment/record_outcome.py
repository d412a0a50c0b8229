"""Records what a single replay says about an incident, so that the run's report shows it from then on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from postmortem.assess.stored_proofs import Proof, add_experiment, earlier_proofs, store_proof
from postmortem.diagnosis import Experiment, Incident
from postmortem.experiment.judge import (
    EARLY_STEPS,
    NEAR,
    OutcomeJudge,
    find_reappearance,
    judge_replay,
    last_needed_step,
)
from postmortem.experiment.null_replay import judge_null_replay
from postmortem.interventions import build_intervention
from postmortem.pipeline import OpenRuns
from postmortem.replay.branch import replayable_root
from postmortem.replay.result import ReplayResult
from postmortem.replay.spec import ReplaySpec
from postmortem.text import relative_path


def record_outcome(spec: ReplaySpec, result: ReplayResult, runs: OpenRuns) -> tuple[Proof, Experiment] | None:
    """Judge a replay by the worst incident of its run in the replayed steps, and store the outcome beside the run's
    report. Returns None if there is no such incident.

    Raises:
        CannotWrite: the run's folder cannot be written.
    """
    examined = runs.examined(spec.run)
    run, replayed = examined.run, runs.run(spec.out)
    incident = next((incident for incident in examined.diagnosis().incidents if _covers(incident, spec)), None)
    if incident is None:
        return None
    first = max(spec.from_step, incident.onset_step - NEAR)
    judge = OutcomeJudge.of(run, incident, first).with_reference_excess(run, spec.attempt)
    root, out = replayable_root(run), Path(spec.out).resolve()
    replay_path = relative_path(out, root.resolve())
    if spec.changes:
        judged = judge_replay(judge, replayed, spec.from_step)
        changes_text = ", ".join(build_intervention(change).text for change in spec.changes)
        no_effect = result.exact
        experiment = Experiment(
            role="replay",
            changes=spec.changes,
            outcome="" if no_effect else judged.outcome,
            text=f"{changes_text}: {'it changed nothing in the replayed steps' if no_effect else judged.text}",
            excess=judged.excess,
            from_step=spec.from_step,
            steps=result.steps,
            seconds=result.seconds,
            run=replay_path,
        )
    else:
        null = judge_null_replay(incident, result, find_reappearance(replayed, incident), replay_path)
        experiment = replace(null.experiment, role="replay")
    proofs = earlier_proofs(run)
    proof_so_far = next((proof for proof in proofs if proof.incident == incident.key), None)
    proof = add_experiment(proof_so_far, incident.key, experiment)
    store_proof(root, proof, proofs)
    return proof, experiment


def _covers(incident: Incident, spec: ReplaySpec) -> bool:
    """Whether the replay covers the incident, on the same lineage, and goes far enough to see it."""
    last = last_needed_step(incident) + EARLY_STEPS
    return incident.lineage == spec.attempt and spec.from_step <= incident.onset_step and last < spec.until
