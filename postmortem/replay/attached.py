"""What a single replay made of an incident, told in the run's own report from then on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from postmortem.assess.proof import Proof, kept, store, with_experiment
from postmortem.diagnosis import Experiment, Incident
from postmortem.pipeline import OpenRuns
from postmortem.replay.branch import root_of
from postmortem.replay.interventions import make
from postmortem.replay.judge import EARLIER, NEAR, Yardstick, last_of, look, reappeared
from postmortem.replay.null import examine
from postmortem.replay.order import Order
from postmortem.replay.result import Replayed


def attach(order: Order, result: Replayed, runs: OpenRuns) -> tuple[Proof, Experiment] | None:
    """Judge a replay by the worst incident of its run in the steps that it drove, and keep the outcome beside the run's
    report; None where there is no such incident.

    Raises:
        OSError: the run cannot be written.
    """
    examined = runs.examined(order.run)
    run, replayed = examined.run, runs.run(order.out)
    incident = next((one for one in examined.diagnosis().incidents if _driven(one, order)), None)
    if incident is None:
        return None
    near = max(order.from_step, incident.onset_step - NEAR)
    yardstick = Yardstick.of(run, incident, near).measured(run, order.attempt)
    root, out = root_of(run), Path(order.out).resolve()
    inside = out.relative_to(root.resolve()).as_posix() if out.is_relative_to(root.resolve()) else str(out)
    if order.changes:
        seen = look(yardstick, replayed, order.from_step)
        changed = ", ".join(make(change).text for change in order.changes)
        idle = result.exact
        found = Experiment(
            role="replay",
            changes=order.changes,
            outcome="" if idle else seen.outcome,
            text=f"{changed}: {'it changed nothing in the steps driven' if idle else seen.text}",
            excess=seen.excess,
            from_step=order.from_step,
            steps=result.steps,
            seconds=result.seconds,
            run=inside,
        )
    else:
        null = examine(incident, result, reappeared(replayed, incident), inside)
        found = replace(null.experiment, role="replay")
    proofs = kept(run)
    known = next((one for one in proofs if one.incident == incident.key), None)
    proof = with_experiment(known, incident.key, found)
    store(root, proof, proofs)
    return proof, found


def _driven(incident: Incident, order: Order) -> bool:
    """Whether the order drove over the incident, on the same lineage, and far enough to see it."""
    last = last_of(incident) + EARLIER
    return incident.lineage == order.attempt and order.from_step <= incident.onset_step and last < order.until
