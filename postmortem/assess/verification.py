"""Writes §6 of the report, what a fixed run must show in figures, and checks another run against it."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np

from postmortem.assess.symptoms import loss_before
from postmortem.case import Case
from postmortem.checkpoint.health import health_in
from postmortem.diagnosis import MEAN_ROWS, Verification, VerificationCheck
from postmortem.jsonio import read_record
from postmortem.run import Run
from postmortem.run.manifest import inside
from postmortem.run.replayed import RESULT_FILE, ReplayResult
from postmortem.series import Series
from postmortem.stats import noise_sigma
from postmortem.text import number

MARGIN = 0.05  # each checked figure allows five percent, even where the loss was very quiet


def verification(case: Case) -> Verification:
    """§6 of the report: seed, ε, through step T, the loss at the onset and the largest gradient norm around it.

    ε is three robust sigmas of the loss before the incident: a fixed run stays at most that far above its baseline.
    """
    through = int(min(case.last_step_after, max(int(case.run.row_steps[-1]), case.incident.peak_step)))
    level, noise = loss_before(case), _noise(case)
    checks: list[VerificationCheck] = []
    if level is not None and noise is not None:
        bound = level + max(4 * noise, MARGIN * abs(level))
        loss, last = case.series("loss"), case.incident.peak_step
        peak = loss.at(last) if loss is not None else None
        broken = f" ({number(peak)} at step {last} in the broken run)" if peak is not None and not peak < bound else ""
        steps = f"at step {last}" if last == case.onset else f"from step {case.onset} through {last}"
        text = f"loss {steps} < {number(bound)}{broken}"
        checks.append(VerificationCheck("loss", case.onset, last, "<", bound, text))
    norm, spike = case.baseline("grad_norm"), case.departure("grad_norm", sign=1)
    if norm is not None and spike is not None:
        bound = float(f"{1.2 * float(norm.value.max()):.2g}")
        if not spike.value <= bound:  # a bound that the broken run meets would check nothing
            window = f"max grad norm in steps {case.onset} through {through}"
            text = f"{window} < {number(bound)} ({number(spike.value)} in the broken run)"
            checks.append(VerificationCheck("grad_norm", case.onset, through, "<", bound, text))
    if not checks:
        checks.append(
            VerificationCheck(
                "loss", case.onset, through, "finite", None, f"loss finite from step {case.onset} through {through}"
            )
        )
    command = "postmortem verify diagnosis.json --against RUN"
    epsilon = None if noise is None or level is None else max(3 * noise, MARGIN / 2 * abs(level))
    return Verification(case.run.manifest.seed, epsilon, level, through, tuple(checks), command)


def _noise(case: Case) -> float | None:
    """Robust sigma of the loss before the onset about its own trend, in nats."""
    past = case.baseline("loss")
    return None if past is None else noise_sigma(past.value)


@dataclass(frozen=True)
class Result:
    """One figure of §6 of the report, checked in a run.

    `measured` is None where the run did not log it, which is not a pass.
    """

    text: str
    measured: float | None
    passed: bool


RELATIONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def verify(expected: Verification, onset_step: int, run: Run) -> tuple[Result, ...]:
    """Each expected figure with the worst value in its window of `run`.

    The loss is checked as its 50-row mean from the onset through `through_step`. Only an upper limit is checked: a run
    that trains better than the baseline does not fail.
    """
    results: list[Result] = []
    if expected.seed is not None and run.manifest.seed is not None:
        results.append(Result(f"seed {expected.seed}", run.manifest.seed, run.manifest.seed == expected.seed))
    if expected.epsilon is not None and expected.baseline_loss is not None:
        limit = expected.baseline_loss + expected.epsilon
        series = run.series("loss")
        rows, worst = highest_mean(series, onset_step, expected.through_step)
        text = (
            f"{rows}-row mean of the loss at or below {number(limit)} from step {onset_step} through "
            f"{expected.through_step}"
        )
        results.append(Result(text, worst, worst is not None and worst <= limit))
    state = _end_state(onset_step, run)
    results += [] if state is None else [state]
    last = int(run.row_steps[-1]) if run.row_steps.size else -1
    if last < expected.through_step:
        results.append(Result(f"rows through step {expected.through_step}", last, False))
    return (*results, *(_measured(check, run) for check in expected.checks))


def _end_state(onset_step: int, run: Run) -> Result | None:
    """Whether the newest state after the onset is finite: that in which a replay ended, or else that of a checkpoint. A
    NaN in a parameter that no batch reads does not show in any column. None where no state is known."""
    nonfinite, name = None, "the state at the end"
    if run.root is not None and (run.root / RESULT_FILE).is_file():
        nonfinite = read_record(ReplayResult, inside(run.root, RESULT_FILE, run.id), "the result of a replay").nonfinite
    newer = [c for c in run.checkpoints if c.complete and c.step > onset_step]
    if nonfinite is None and newer:
        newest = max(newer, key=lambda c: c.step)
        health = health_in(run).of(newest, whole=True)
        nonfinite, name = health.nonfinite, f"the checkpoint of step {newest.step}"
        if health.state == "unreadable":
            return None
    if nonfinite is None:
        return None
    count = sum(nonfinite.values())
    return Result(f"no NaN or infinite element in {name}", count, count == 0)


def highest_mean(loss: Series | None, first: int, last: int) -> tuple[int, float | None]:
    """(rows, the highest mean of the loss over as many rows from step `first` through `last`): `MEAN_ROWS` of them, or
    all where there are fewer; None without a row."""
    inside = np.empty(0) if loss is None else loss.window(first, last + 1).value
    rows = min(MEAN_ROWS, inside.size) or MEAN_ROWS
    return rows, float(np.convolve(inside, np.full(rows, 1 / rows), "valid").max()) if inside.size else None


def _measured(check: VerificationCheck, run: Run) -> Result:
    series = run.series(check.column)
    window = None if series is None else series.window(check.first_step, check.last_step + 1)
    if window is None or not len(window):
        return Result(check.text, None, False)
    if not np.isfinite(window.value).all():
        return Result(check.text, float("nan"), False)
    worst = float(window.value.min() if check.relation in (">", ">=") else window.value.max())
    passed = check.bound is None or RELATIONS[check.relation](worst, check.bound)
    return Result(check.text, worst, bool(passed))
