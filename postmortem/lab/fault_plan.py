"""The plan that a fault fills in, the place that a seed gives it, and the spec of the run that results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from postmortem.errors import UsageError
from postmortem.lab.config import default_config
from postmortem.program import Program

Row = dict[str, Any]


@dataclass(frozen=True)
class StopAndResume:
    """The process saves a checkpoint before `step`, ends `lost` steps later, and resumes from that checkpoint.

    `restored` names the parts of the state that the resume restores, as `postmortem.program.select` does.
    """

    step: int
    lost: int
    restored: tuple[str, ...]


@dataclass(frozen=True)
class LabRunSpec:
    """One run to make: its effective config, what happens to it from outside, and the truth about it.

    `onset` is the first faulty step, or a test that the first faulty row from step `at` on passes, or None if the fault
    has no such step.
    """

    slug: str
    seed: int
    at: int
    steps: int
    config: dict[str, Any]
    onset: int | Callable[[Row], bool] | None
    batches: tuple[int, int] | None
    parameters: Mapping[str, Any]
    stop: StopAndResume | None
    before_step: Callable[[int, Program], None] | None
    rewrite: Callable[[int, Row], Row] | None

    def cut_off(self, until: int) -> LabRunSpec:
        """The same run, which ends after `until` steps. Raises UsageError if its stop and resume would come later."""
        if not 0 < until <= self.steps or (self.stop is not None and self.stop.step + self.stop.lost >= until):
            raise UsageError(
                f"until is {until}; it must be at most {self.steps}, the steps of this run, and after its resume"
            )
        return replace(self, steps=until)


@dataclass
class FaultPlan:
    """What a fault fills in. `at` is the step at which it begins; strength and length are drawn from `rng`."""

    at: int
    steps: int
    rng: Random
    config: dict[str, Any]
    onset: int | Callable[[Row], bool] | None = None
    batches: tuple[int, int] | None = None
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    stop: StopAndResume | None = None
    before_step: Callable[[int, Program], None] | None = None
    rewrite: Callable[[int, Row], Row] | None = None

    def stream(self, recipe: str, batches: int, *, name: str | None = None, share: int = 8) -> None:
        """Take `batches` batches from step `at` on from their own stream."""
        _add_stream(self.config, self.rng, recipe, self.at, batches, name, share)
        self.batches = (self.at, self.at + batches)


@dataclass(frozen=True)
class Fault:
    """A fault that a run can have: `fill_plan` describes it in the plan. `placeable`: the user may choose its step."""

    slug: str
    title: str
    fill_plan: Callable[[FaultPlan], None]
    placeable: bool = True


def make_spec(fault: Fault, *, seed: int, at: int | None, steps: int) -> LabRunSpec:
    """The spec of one run. Everything except the fault is drawn from the seed alone, equally for all faults."""
    if steps < 20:
        raise UsageError(f"steps is {steps}; a lab run has at least 20")
    if at is not None and not fault.placeable:
        raise UsageError(f"{fault.slug} has no step that `at` could choose")
    if at is not None and not 0 < at < steps:
        raise UsageError(f"at is {at}; it must be inside the run, from 1 to {steps - 1}")
    rng = Random(f"fault:{fault.slug}:{seed}")
    drawn = rng.randrange(max(1, steps // 8), max(2, steps * 3 // 4))
    config = default_config(seed, steps)
    plan = FaultPlan(drawn if at is None else at, steps, rng, config)
    ordinary = Random(f"ordinary:{seed}")
    fault.fill_plan(plan)
    _add_ordinary_streams(plan, ordinary)
    if plan.stop is None and ordinary.random() < 0.3:
        plan.stop = _ordinary_stop(plan, ordinary)
    return LabRunSpec(
        fault.slug,
        seed,
        plan.at,
        steps,
        config,
        plan.onset,
        plan.batches,
        plan.parameters,
        plan.stop,
        plan.before_step,
        plan.rewrite,
    )


WHOLE_STATE = ("model", "optimizer", "schedule", "loader", "rng", "scaler")


def _add_ordinary_streams(plan: FaultPlan, rng: Random) -> None:
    """Every run takes some batches of ordinary text from streams, away from the fault: a stream is no sign of one."""
    for _ in range(rng.randrange(1, 4)):
        first, batches = rng.randrange(plan.steps), rng.choice((1, 1, 2, 6, 12))
        if plan.onset is None or not plan.at - 60 < first + batches < plan.at + 250:
            _add_stream(plan.config, rng, "a", first, batches, None, 8)
    plan.config["data"]["streams"].sort(key=lambda stream: stream["first"])


def _ordinary_stop(plan: FaultPlan, rng: Random) -> StopAndResume | None:
    """A stop and a complete resume, at least 100 steps from the fault."""
    step = rng.randrange(plan.steps // 10, plan.steps - plan.steps // 10)
    if plan.onset is not None and -150 < step - plan.at < 250:
        return None
    return StopAndResume(step, rng.choice((0, 0, 7, 25)), WHOLE_STATE)


def _add_stream(
    config: dict[str, Any], rng: Random, recipe: str, first: int, batches: int, name: str | None, share: int
) -> None:
    streams: list[dict[str, Any]] = config["data"]["streams"]
    used = {stream["name"] for stream in streams}
    free = [f"shard-{number:02d}" for number in range(10, 40) if f"shard-{number:02d}" not in used]
    streams.append(
        {
            "name": name or rng.choice(free),
            "first": first,
            "batches": batches,
            "recipe": recipe,
            "share": share,
            "offset": rng.randrange(24, 400),
            "seed": rng.randrange(2**31),
        }
    )
