"""What a single replay made of an incident, told in the run's own report from then on."""

from __future__ import annotations

from pathlib import Path

from postmortem.assess.proof import kept, store, with_experiment
from postmortem.diagnosis import Experiment, Incident
from postmortem.replay.branch import root_of
from postmortem.replay.interventions import make
from postmortem.replay.judge import NEAR, Yardstick, look
from postmortem.replay.order import Order
from postmortem.replay.result import Replayed
from postmortem.run import Run


def attach(run: Run, incident: Incident, order: Order, result: Replayed) -> Experiment | None:
    """Judge a replay of `incident` and keep the outcome beside the run's report; None where it ended before the
    incident could show."""
    if not order.from_step <= incident.onset_step < order.until:
        return None
    near = max(order.from_step, incident.onset_step - NEAR)
    yardstick = Yardstick.of(run, incident, near).measured_on(run, order.attempt)
    seen = look(yardstick, Path(order.out), order.from_step)
    changed = ", ".join(make(change).text for change in order.changes)
    outcome = seen.outcome
    if not order.changes:
        changed, outcome = "nothing changed", "vanished" if seen.found is None else "persists"
    root, out = root_of(run), Path(order.out).resolve()
    found = Experiment(
        role="replay",
        changes=tuple(str(change) for change in order.changes),
        outcome=outcome,
        text=f"{changed}: {seen.text}",
        excess=seen.excess,
        from_step=order.from_step,
        steps=result.steps,
        seconds=result.seconds,
        run=out.relative_to(root.resolve()).as_posix() if out.is_relative_to(root.resolve()) else str(out),
    )
    proofs = kept(run)
    about = (incident.kind, incident.onset_step, incident.attempt)
    known = next((one for one in proofs if one.concerns(*about)), None)
    store(root, with_experiment(known, about, found), proofs)
    return found
