"""Estimates what an experiment costs, before it is driven."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from postmortem.experiment.prove import ExperimentDriver
from postmortem.run import Run
from postmortem.text import number


@dataclass(frozen=True)
class Cost:
    """lines: (group, number of replays, what they change). steps: of all replays together, if none is left out.
    seconds: by the run's own step time, None if it logged no times."""

    lines: tuple[tuple[str, int, str], ...]
    replays: int
    steps: int
    seconds: float | None

    @property
    def time(self) -> str:
        """A clause such as ", about 20 s of training at the run's pace", or nothing."""
        if self.seconds is None:
            return ""
        size, unit = (self.seconds, "s") if self.seconds < 120 else (self.seconds / 60, "min")
        size, unit = (size / 60, "h") if unit == "min" and size >= 120 else (size, unit)
        return f", about {number(float(f'{size:.2g}'))} {unit} of training at the run's pace"

    def as_dict(self) -> dict[str, Any]:
        """The estimate for JSON."""
        return asdict(self)


def estimate_cost(experiment: ExperimentDriver) -> Cost:
    """The cost of all replays that the experiment may need."""
    design = experiment.design
    arms = dict.fromkeys(
        [*design.data_state_arms, *design.placebos, *(arm for test in design.tests for arm in test.arms)]
    )
    steps = design.until - design.from_step + sum(design.steps(arm) for arm in arms)
    pace = median_step_time(experiment.target.run)
    lines = [("R0", 1, "nothing changed")]
    for group in ("R1", "R2", "R3"):
        group_arms = [arm for arm in arms if arm.role == group]
        if group_arms:
            lines.append((group, len(group_arms), "; ".join(arm.text for arm in group_arms)))
    return Cost(tuple(lines), len(arms) + 1, steps, None if pace is None else steps * pace)


def median_step_time(run: Run) -> float | None:
    """Seconds per step of the run: the median of `step_time_s`, or of the differences between its times."""
    logged = run.series("step_time_s")
    if logged is not None and len(logged):
        return float(np.median(logged.value))
    times = run.series("time")
    if times is None or len(times) < 2:
        return None
    seconds_per_step = np.diff(times.value) / np.diff(times.step)
    return float(np.median(seconds_per_step))
