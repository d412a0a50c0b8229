"""What an experiment would cost, before it is driven."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from postmortem.experiment.prove import ExperimentRun
from postmortem.run import Run
from postmortem.text import number


@dataclass(frozen=True)
class Cost:
    """lines: (role, number of replays, what they change). steps: all of them together, were none left out. seconds: by
    the run's own step time, None where it logged no clock."""

    lines: tuple[tuple[str, int, str], ...]
    replays: int
    steps: int
    seconds: float | None

    @property
    def time(self) -> str:
        """ ", about 20 s at the run's pace", or nothing."""
        if self.seconds is None:
            return ""
        size, unit = (self.seconds, "s") if self.seconds < 120 else (self.seconds / 60, "min")
        size, unit = (size / 60, "h") if unit == "min" and size >= 120 else (size, unit)
        return f", about {number(float(f'{size:.2g}'))} {unit} of training at the run's pace"

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)


def cost(bench: ExperimentRun) -> Cost:
    """Of every replay that the experiment may need."""
    design = bench.design
    arms = dict.fromkeys([*design.cross, *design.placebos, *(a for test in design.tests for a in test.arms)])
    steps = design.until - design.from_step + sum(design.steps(arm) for arm in arms)
    pace = step_time(bench.target.run)
    lines = [("R0", 1, "nothing changed")]
    for role in ("R1", "R2", "R3"):
        own = [arm for arm in arms if arm.role == role]
        if own:
            lines.append((role, len(own), "; ".join(arm.text for arm in own)))
    return Cost(tuple(lines), len(arms) + 1, steps, None if pace is None else steps * pace)


def step_time(run: Run) -> float | None:
    """Seconds a step took in the run: the median of `step_time_s`, or of the differences of its clock."""
    logged = run.series("step_time_s")
    if logged is not None and len(logged):
        return float(np.median(logged.value))
    clock = run.series("time")
    if clock is None or len(clock) < 2:
        return None
    apart = np.diff(clock.value) / np.diff(clock.step)
    return float(np.median(apart))
