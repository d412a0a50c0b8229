"""§6: what a fixed run must show, as figures that the tool can check itself."""

from __future__ import annotations

import shlex

import numpy as np

from postmortem.assess.symptoms import before
from postmortem.case import Case
from postmortem.diagnosis import Check, Verification
from postmortem.text import number

MARGIN = 0.05  # a figure that is checked allows five per cent, however quiet the loss was
THROUGH_ROWS = 200  # a cure is read over the incident and as many rows after it as people would look at


def verification(case: Case) -> Verification:
    """Seed, ε, through step T, the loss at the onset and the largest gradient norm around it.

    ε is three robust sigmas of the loss before the incident: what the noise alone does, a fixed run stays within.
    """
    end = (case.incident.recovery_step or case.incident.peak_step) + THROUGH_ROWS * case.row_step
    through = int(min(end, max(int(case.run.row_steps[-1]), case.incident.peak_step)))
    level, noise = before(case), _noise(case)
    checks: list[Check] = []
    if level is not None and noise is not None:
        bound = level + max(4 * noise, MARGIN * abs(level))
        broken = case.series("loss")
        was = broken.at(case.incident.peak_step) if broken is not None else None
        worse = (
            f" ({number(was)} at step {case.incident.peak_step} in the broken run)"
            if was is not None and not was < bound
            else ""
        )
        last = case.incident.peak_step
        checks.append(
            Check(
                "loss",
                case.onset,
                last,
                "<",
                bound,
                f"loss from step {case.onset} through {last} < {number(bound)}{worse}",
            )
        )
    norm = case.baseline("grad_norm")
    if norm is not None:
        bound = float(f"{1.5 * float(norm.value.max()):.2g}")
        text = f"max grad norm in steps {case.onset} through {through} < {number(bound)}"
        checks.append(Check("grad_norm", case.onset, through, "<", bound, text))
    if not checks:
        checks.append(
            Check("loss", case.onset, through, "finite", None, f"loss finite from step {case.onset} through {through}")
        )
    command = f"postmortem verify diagnosis.json --against {shlex.quote('RUN')}"
    epsilon = None if noise is None or level is None else max(3 * noise, MARGIN / 2 * abs(level))
    return Verification(case.run.manifest.seed, epsilon, level, through, tuple(checks), command)


def _noise(case: Case) -> float | None:
    """Robust sigma of the loss before the onset about its own trend (differences take the trend out: σ_diff = √2 σ)."""
    past = case.baseline("loss")
    if past is None:
        return None
    return 1.4826 * float(np.median(np.abs(np.diff(past.value)))) / float(np.sqrt(2))
