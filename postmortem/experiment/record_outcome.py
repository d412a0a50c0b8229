"""What a single replay made of an incident, told in the run's own report from then on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from postmortem.assess.proof import Proof, add_experiment, earlier_proofs, store_proof
from postmortem.diagnosis import Experiment, Incident
from postmortem.experiment.judge import EARLIER, NEAR, OutcomeJudge, judge_replay, last_of, reappeared
from postmortem.experiment.null_replay import examine
from postmortem.interventions import make
from postmortem.pipeline import OpenRuns
from postmortem.replay.branch import root_of
from postmortem.replay.result import ReplayResult
from postmortem.replay.spec import ReplaySpec


def record_outcome(spec: ReplaySpec, result: ReplayResult, runs: OpenRuns) -> tuple[Proof, Experiment] | None:
    """Judge a replay by the worst incident of its run in the steps that it drove, and keep the outcome beside the run's
    report; None where there is no such incident.

    Raises:
        OSError: the run cannot be written.
    """
    examined = runs.examined(spec.run)
    run, replayed = examined.run, runs.run(spec.out)
    incident = next((one for one in examined.diagnosis().incidents if _driven(one, spec)), None)
    if incident is None:
        return None
    near = max(spec.from_step, incident.onset_step - NEAR)
    judge = OutcomeJudge.of(run, incident, near).measured(run, spec.attempt)
    root, out = root_of(run), Path(spec.out).resolve()
    inside = out.relative_to(root.resolve()).as_posix() if out.is_relative_to(root.resolve()) else str(out)
    if spec.changes:
        seen = judge_replay(judge, replayed, spec.from_step)
        changed = ", ".join(make(change).text for change in spec.changes)
        idle = result.exact
        found = Experiment(
            role="replay",
            changes=spec.changes,
            outcome="" if idle else seen.outcome,
            text=f"{changed}: {'it changed nothing in the steps driven' if idle else seen.text}",
            excess=seen.excess,
            from_step=spec.from_step,
            steps=result.steps,
            seconds=result.seconds,
            run=inside,
        )
    else:
        null = examine(incident, result, reappeared(replayed, incident), inside)
        found = replace(null.experiment, role="replay")
    proofs = earlier_proofs(run)
    known = next((one for one in proofs if one.incident == incident.key), None)
    proof = add_experiment(known, incident.key, found)
    store_proof(root, proof, proofs)
    return proof, found


def _driven(incident: Incident, spec: ReplaySpec) -> bool:
    """Whether the order drove over the incident, on the same lineage, and far enough to see it."""
    last = last_of(incident) + EARLIER
    return incident.lineage == spec.attempt and spec.from_step <= incident.onset_step and last < spec.until
