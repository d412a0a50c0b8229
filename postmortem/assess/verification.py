"""Writes §6 of the report, what a fixed run must show in figures, and checks another run against it.

§6 is measured on the run that broke as it is written: a check that this run meets as well would check nothing, and is
left out. What departed decides what is checked, whatever column that was: a figure where a column left its baseline
by more than noise, and where no figure says it (a repeated batch, a loss scale that only halves) the incident itself,
which must not be found again.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from postmortem.assess.detection import detect, detect_effective
from postmortem.assess.symptoms import loss_before
from postmortem.case import BASELINE_ROWS, MIN_BASELINE_ROWS, Case
from postmortem.causes import Cause
from postmortem.change import Change
from postmortem.detectors import DetectedIncident, Finding
from postmortem.diagnosis import MEAN_ROWS, Incident, Relation, Verification, VerificationCheck
from postmortem.jsonio import read_record
from postmortem.run import Run
from postmortem.run.manifest import inside
from postmortem.run.replayed import RESULT_FILE, ReplayResult
from postmortem.series import Series, Steps
from postmortem.shown import Shown
from postmortem.stats import median, noise_sigma
from postmortem.text import number, plain

SIGMAS = 4  # noise that each checked figure allows
MARGIN = 0.05  # and at least five percent, even where the column was very quiet
BEYOND = 1.2  # and this multiple of the largest departure in the baseline: a gradient norm is heavy-tailed
MOST_CHECKS = 6  # columns that are checked: a NaN is in all of them, and more would say the same

_ABSOLUTE = ("loss", "eval_loss", "grad_norm")
"""Columns that a fix brings back to their old level; it may change that of others: a lower rate, a larger update."""


def verification(case: Case, known: Cause | None = None, remedy: tuple[Change, ...] = ()) -> Verification:
    """§6 of the report: seed, ε, through step T, and the checks of what departed; no checks where the `known` cause is
    harmless, because nothing has to change.

    ε is three robust sigmas of the loss before the incident: a fixed run stays at most that far above its baseline.
    With a `remedy` that lowers the rate, the baseline is what a slower run has reached: it cannot be asked to have come
    as far at the onset.
    """
    through = int(min(case.last_step_after, max(int(case.run.row_steps[-1]), case.incident.peak_step)))
    level, noise = loss_before(case), _noise(case)
    slower = _slower(case, remedy)
    level = level if level is None or slower is None else max(level, slower)
    epsilon = None if noise is None or level is None else max(3 * noise, MARGIN / 2 * abs(level))
    seed = case.run.manifest.seed
    if known is not None and known.harmless:
        why = f"the cause is “{known.title.lower()}”: nothing in the run has to change, so there is nothing to verify"
        return Verification(seed, epsilon, level, through, (), "", why)
    checks = _checks(case, through, level, noise)
    if epsilon is None and case.series("loss") is not None:  # no mean of the loss is checked
        checks = (*checks, _figure("loss", case.onset, through, "finite", None))
    command = "postmortem verify diagnosis.json --against RUN"
    return Verification(seed, epsilon, level, through, checks, command)


def _checks(case: Case, through: int, level: float | None, noise: float | None) -> tuple[VerificationCheck, ...]:
    """The checks that the broken run fails: of the loss, of the gradient norm, of each other column that departed, and
    last of the incident itself."""
    kept: dict[tuple[str, str], VerificationCheck] = {}
    leading = next((f for f in case.incident.findings if f.kind == case.incident.kind), case.incident.findings[0])
    again = _not_again(case, leading, case.incident.title, through)
    for check in (*_of_the_columns(case, through, level, noise), again):
        key = check.column, check.kind
        if key not in kept and (len(kept) < MOST_CHECKS or check is again):
            broken = _measured(check, case.run, case.incident.lineage)
            if not broken.passed:
                kept[key] = replace(check, text=f"{check.text} ({_seen(check, broken)} in the broken run)")
    return tuple(kept.values())


def _of_the_columns(case: Case, through: int, level: float | None, noise: float | None) -> Iterator[VerificationCheck]:
    if level is not None and noise is not None:
        bound = level + max(SIGMAS * noise, MARGIN * abs(level))
        yield _figure("loss", case.onset, case.incident.peak_step, "<", bound)
    norm = case.baseline("grad_norm")
    if norm is not None:
        yield _figure("grad_norm", case.onset, through, "<", float(f"{BEYOND * float(norm.value.max()):.2g}"))
    for finding in case.incident.findings:
        if finding.opens and finding.onset_step <= through:
            title = finding.kind.replace("_", " ") if finding.declared is None else finding.declared.title
            yield _of_a_finding(case, finding, through) or _not_again(case, finding, title, through)


def _of_a_finding(case: Case, f: Finding, through: int) -> VerificationCheck | None:
    """What the column of a finding must show, from the finding's own figures; None where these are no level and noise.

    The bound leaves room for noise, and is at most halfway from the baseline to the peak.
    """
    if not math.isfinite(f.peak):
        last = through if f.recovery_step is None else f.peak_step
        positive = f.suspected and f.baseline > 0  # the log went blank, or to exactly zero
        return _figure(f.column, f.onset_step, last, ">" if positive else "finite", 0.0 if positive else None)
    measures_nothing = f.declared is not None and f.declared.measures == "nothing"
    if measures_nothing or not (math.isfinite(f.baseline) and f.scale > 0 and f.peak != f.baseline):
        return None
    sign, before = (1 if f.peak > f.baseline else -1), case.baseline(f.column)
    widest = 0.0 if before is None else float((sign * (before.value - f.baseline)).max())
    room = max(SIGMAS * f.scale, MARGIN * abs(f.baseline), BEYOND * widest)
    bound = f.baseline + sign * min(room, abs(f.peak - f.baseline) / 2)
    if any(sign * (level - bound) >= 0 for level in _sound_levels(case, f)):  # it came back from a departure
        return None
    series = case.series(f.column)
    usual = None if series is None or f.column in _ABSOLUTE else _usual(series, f.onset_step)
    return replace(_figure(f.column, f.onset_step, f.peak_step, "<" if sign > 0 else ">", bound), usual=usual)


def _sound_levels(case: Case, f: Finding) -> Iterator[float]:
    """The level of the finding's column before the incident, and before earlier incidents that lasted until then."""
    level = case.level(f.column)
    if level is not None:
        yield level
    for earlier in (i for i in case.incidents if i.lineage == case.incident.lineage):
        for g in earlier.findings:
            if g.column == f.column and g.onset_step < f.onset_step <= (g.recovery_step or f.onset_step):
                yield g.baseline


def _usual(series: Series, first: int) -> float | None:
    """The median of the last finite rows before step `first`; None where there are too few."""
    before = series.value[: np.searchsorted(series.step, first)]
    before = before[np.isfinite(before)][-BASELINE_ROWS:]
    return float(median(before)) if before.size >= MIN_BASELINE_ROWS else None


def _not_again(case: Case, f: Finding, title: str, through: int) -> VerificationCheck:
    """That the detectors find nothing of the finding's kind in its column, or in any where it names none."""
    column = f.column if f.column in {*case.run.columns, *case.run.other_columns} else ""
    text = f"no {plain(title, 60)} {_steps(f.onset_step, through)}"
    return VerificationCheck(column, f.onset_step, through, "absent", None, text, f.kind)


def _figure(column: str, first: int, last: int, relation: Relation, bound: float | None) -> VerificationCheck:
    limit = "finite" if bound is None else f"{relation} {number(bound)}"
    steps = _steps(first, last)
    text = f"{plain(column, 40)} {limit} {steps}" if bound is None else f"{plain(column, 40)} {steps} {limit}"
    return VerificationCheck(column, first, last, relation, bound, text)


def _steps(first: int, last: int) -> str:
    return f"at step {first}" if first == last else f"from step {first} through {last}"


def _seen(check: VerificationCheck, broken: Result) -> str:
    if broken.measured is None:
        return "not logged"
    return f"{'found' if check.relation == 'absent' else number(broken.measured)} at step {broken.step}"


def _slower(case: Case, remedy: tuple[Change, ...]) -> float | None:
    """The loss that a run has at the onset if `remedy` scales its rate from the checkpoint on; None where it does not,
    or the log does not show it.

    Along a gradient flow, progress is rate times steps. So with a tenth of the rate a run comes as far as this one did
    in a tenth of its steps.
    """
    loss, factor = case.series("loss"), Shown(remedy).rate
    if loss is None or factor is None or case.checkpoint is None:
        return None
    reached = case.checkpoint.step + factor * (case.onset - case.checkpoint.step)
    before = loss.value[: np.searchsorted(loss.step, reached)]
    before = before[np.isfinite(before)][-MIN_BASELINE_ROWS:]
    return float(median(before)) if before.size else None


def _noise(case: Case) -> float | None:
    """Robust sigma of the loss before the onset about its own trend, in nats."""
    past = case.baseline("loss")
    return None if past is None else noise_sigma(past.value)


@dataclass(frozen=True)
class Result:
    """One figure of §6 of the report, checked in a run.

    `measured` is None where the run did not log it, which is not a pass. `step` is where the worst value is, if the
    figure is that of one row.
    """

    text: str
    measured: float | None
    passed: bool
    step: int | None = None


RELATIONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def rows_of(incident: Incident, run: Run) -> int | None:
    """The attempt whose rows are checked; None for the effective history.

    Where the incident was in rows that were rolled back, and `run` still has it there, `run` is the very run that
    broke: its effective history is what came after, and would pass in its place.
    """
    broke = incident.discarded and any(each.key == incident.key for each in detect(run))
    return incident.attempt if broke else None


@np.errstate(all="ignore")  # a log may contain any float
def verify(expected: Verification, onset_step: int, run: Run, attempt: int | None = None) -> tuple[Result, ...]:
    """Each expected figure with the worst value in its window of `run`, or of one rolled-back `attempt` of it.

    The loss is checked as its 50-row mean from the onset through `through_step`. Only an upper limit is checked: a run
    that trains better than the baseline does not fail.
    """
    results: list[Result] = []
    if expected.seed is not None and run.manifest.seed is not None:
        results.append(Result(f"seed {expected.seed}", run.manifest.seed, run.manifest.seed == expected.seed))
    if expected.epsilon is not None and expected.baseline_loss is not None:
        limit = expected.baseline_loss + expected.epsilon
        rows, worst = highest_mean(run.series("loss", attempt=attempt), onset_step, expected.through_step)
        text = (
            f"{rows}-row mean of the loss at or below {number(limit)} from step {onset_step} through "
            f"{expected.through_step}"
        )
        results.append(Result(text, worst, worst is not None and worst <= limit))
    results.append(_nothing_fatal(onset_step, expected.through_step, run, attempt))
    state = _end_state(onset_step, run)
    results += [] if state is None else [state]
    steps = run.steps(attempt=attempt)
    last = int(steps[-1]) if steps.size else -1
    if last < expected.through_step:
        results.append(Result(f"rows through step {expected.through_step}", last, False))
    return (*results, *(_measured(check, run, attempt) for check in expected.checks))


def _nothing_fatal(first: int, last: int, run: Run, attempt: int | None) -> Result:
    """Whether the run computes numbers and trains in these steps: a loss that is exactly 0, blank or frozen there meets
    every upper limit."""
    incidents = (i for i in _incidents(run, attempt) if i.onset_step <= last)
    overlapping = [i for i in incidents if i.recovery_step is None or i.recovery_step > first]
    fatal = [i for i in overlapping if any(f.role == "fatal" or f.kind == "no_training" for f in i.findings if f.opens)]
    return Result(f"nothing non-finite, blank or frozen from step {first} through {last}", len(fatal), not fatal)


def _end_state(onset_step: int, run: Run) -> Result | None:
    """Whether the newest state after the onset is finite: that in which a replay ended, or else that of a checkpoint. A
    NaN in a parameter that no batch reads does not show in any column. None where no state is known."""
    nonfinite, name = None, "the state at the end"
    if run.root is not None and (run.root / RESULT_FILE).is_file():
        nonfinite = read_record(ReplayResult, inside(run.root, RESULT_FILE, run.id), "the result of a replay").nonfinite
    newer = [c for c in run.checkpoints if c.complete and c.step > onset_step]
    if nonfinite is None and newer:
        newest = max(newer, key=lambda c: c.step)
        from postmortem.checkpoint.health import health_in

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


def _measured(check: VerificationCheck, run: Run, attempt: int | None) -> Result:
    if check.relation == "absent":
        return _found_again(check, run, attempt)
    series = run.series(check.column, attempt=attempt)
    window = None if series is None else series.window(check.first_step, check.last_step + 1)
    if series is None or window is None or not len(window):
        return Result(check.text, None, False)
    badness = -window.value if check.relation in (">", ">=") else window.value
    row = int(np.argmax(np.where(np.isfinite(window.value), badness, np.inf)))
    worst, bound, text = float(window.value[row]), check.bound, check.text
    own = None if check.usual is None else _usual(series, check.first_step)
    if bound is not None and own is not None and check.usual and own != check.usual and own / check.usual > 0:
        bound *= own / check.usual
        text += f", here {check.relation} {number(bound)}: in proportion to the level before it"
    passed = math.isfinite(worst) and (bound is None or RELATIONS[check.relation](worst, bound))
    return Result(text, worst, passed, int(window.step[row]))


def _found_again(check: VerificationCheck, run: Run, attempt: int | None) -> Result:
    """How often what must be absent is found in its window; None where its column has no row there."""
    column = run.series(check.column, attempt=attempt) or run.labels(check.column, attempt=attempt)
    if check.column and (column is None or not _any_inside(column.step, check)):
        return Result(check.text, None, False)
    onsets = [
        f.onset_step
        for incident in _incidents(run, attempt)
        for f in incident.findings
        if f.kind == check.kind and check.column in ("", f.column)
        if f.onset_step <= check.last_step and f.peak_step >= check.first_step
    ]
    return Result(check.text, len(onsets), not onsets, min(onsets, default=None))


def _incidents(run: Run, attempt: int | None) -> Sequence[DetectedIncident]:
    """Those of the effective history, or of one rolled-back attempt."""
    return detect_effective(run) if attempt is None else [i for i in detect(run) if i.lineage == attempt]


def _any_inside(steps: Steps, check: VerificationCheck) -> bool:
    return bool(((steps >= check.first_step) & (steps <= check.last_step)).any())
