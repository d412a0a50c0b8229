"""Replays a run with the remedy of its diagnosis, and measures how exactly the result can be predicted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from postmortem.change import Change
from postmortem.diagnosis import Verification
from postmortem.experiment.target import NULL, ExperimentTarget
from postmortem.proof.judge import loss_spread
from postmortem.run.replayed import ReplayResult
from postmortem.sources import open_run

if TYPE_CHECKING:
    from postmortem.replay.run_replay import OnStep


def replay_with_remedy(
    target: ExperimentTarget, until: int, changes: tuple[Change, ...], on_step: OnStep | None = None
) -> ReplayResult:
    """Drive the run from its newest healthy checkpoint with `changes`."""
    from postmortem.replay.run_replay import replay

    spec = target.spec("remedy", target.from_step, until, changes, reason=f"verify: {target.incident.kind}")
    return replay(spec, on_step=on_step, run=target.run)


def with_measured_band(target: ExperimentTarget, expected: Verification) -> Verification:
    """What is expected, with a measured band: how much replays differ that change nothing, or only the last bit of the
    parameters."""
    until = expected.through_step + 1
    specs = [target.spec(NULL, target.from_step, until, reason="null replay")]
    specs += [target.spec(f"noise-{n}", target.from_step, until, (Change("noise", values=(n,)),)) for n in (1, 2)]
    replays = (open_run(replay.spec.out) for replay in target.drive(specs) if replay.result is not None)
    band = loss_spread(replays, target.from_step)
    checks = [
        replace(check, bound=check.bound + band)
        if check.column == "loss" and check.relation == "<" and check.bound is not None
        else check
        for check in expected.checks
    ]
    epsilon = None if expected.epsilon is None else max(expected.epsilon, band)
    return replace(expected, epsilon=epsilon, checks=tuple(checks))
