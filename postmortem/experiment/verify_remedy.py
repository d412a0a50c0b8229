"""The run once more, with the remedy of its diagnosis in it, and how exactly that can be asked to come out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from postmortem.change import Change
from postmortem.diagnosis import Verification
from postmortem.experiment.judge import spread
from postmortem.experiment.target import NULL, ExperimentTarget
from postmortem.replay.result import ReplayResult
from postmortem.sources import open_run

if TYPE_CHECKING:
    from postmortem.replay.run_replay import OnStep


def replay_with_remedy(
    about: ExperimentTarget, until: int, changes: tuple[Change, ...], on_step: OnStep | None = None
) -> ReplayResult:
    """Drive the run from its newest healthy checkpoint with `changes`."""
    from postmortem.replay.run_replay import replay

    spec = about.spec("remedy", about.from_step, until, changes, reason=f"verify: {about.incident.kind}")
    return replay(spec, on_step=on_step, run=about.run)


def widened(about: ExperimentTarget, expected: Verification) -> Verification:
    """What is expected, within the measured band: how far replays lie apart that nothing, or nothing but the last bit
    of the parameters, tells from each other."""
    until = expected.through_step + 1
    specs = [about.spec(NULL, about.from_step, until, reason="null replay")]
    specs += [about.spec(f"noise-{n}", about.from_step, until, (Change("noise", values=(n,)),)) for n in (1, 2)]
    alike = (open_run(done.spec.out) for done in about.drive(specs) if done.result is not None)
    apart = spread(alike, about.from_step)
    checks = [replace(c, bound=c.bound + apart) if c.column == "loss" and c.bound is not None else c
              for c in expected.checks]  # fmt: skip
    epsilon = None if expected.epsilon is None else max(expected.epsilon, apart)
    return replace(expected, epsilon=epsilon, checks=tuple(checks))
