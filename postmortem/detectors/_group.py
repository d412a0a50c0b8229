"""Findings of all columns, grouped into incidents, worst first."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from postmortem.departure import measure_departure
from postmortem.detectors._model import DIVERGED, LINGERING, RECOVERED, UNRESOLVED, DetectedIncident, Finding, Telemetry
from postmortem.detectors._tail import TAIL_RUNS
from postmortem.incident import Role

LEAD_ROWS, CAUSE_LEAD_ROWS = 8, 50
"""Rows by which a symptom may move ahead of the loss (papers report 1 to 8 steps), and a cause (optimizer, schedule,
data, loss scale: GLM-130B's fell about 30 steps ahead)."""

SYMPTOM_ROWS = 50
"""Rows of a departure of another column than the loss that may belong to what departs after it: as many as a cause may
be ahead. It may last to the end of the log, and be no more than what its column does by then."""

TOGETHER_ROWS = 1
"""Rows between two columns that one batch moves: the loss of its row, or what its update did to the next one."""

_USUAL_ROWS = 48
"""Rows before a repeated batch whose highest loss is still usual."""

CLOSE_ROWS = 100  # between two brief findings of the loss that count together
WITNESSES = ("grad_norm", "update_rms", "token_loss_max", "token_loss_p99")
WITNESS_ROWS, FEWEST_WITNESS_ROWS = 40, 20
"""Columns that move with a batch that moves the loss, and rows of their past that show what is usual."""

_TIERS = {RECOVERED: 2, LINGERING: 3, UNRESOLVED: 4, DIVERGED: 5}
_FATAL, _FATAL_SUSPECTED, _FATAL_UNRESOLVED, _FATAL_LOSS_RECOVERED, _FATAL_RECOVERED = 5.99, 4.9, 2.5, 3.5, 1.9
_ROLES_ON_LOSS: tuple[Role, ...] = ("fatal", "cause", "symptom", "minor")
"""Of findings on the loss, one that says why it moved comes before one that says that it did."""

_MINOR, _SYMPTOM_TIER, _SIZE_SHARE = 0.5, 1, 0.98
"""Severities, without a unit (see `DetectedIncident`): the tier of an excursion by its outcome; of a non-finite column
for good, suspected, or recovered; of a minor kind; of another column alone. A size adds less than one tier."""


class _Group:
    """Findings that belong together, and the rows that they cover."""

    def __init__(self, f: Finding, t: Telemetry) -> None:
        self.findings = [f]
        self._t = t
        self.lo, self.hi = self.span(f)

    def _row(self, step: int) -> int:
        return int(np.searchsorted(self._t.row_steps, step))

    def span(self, f: Finding) -> tuple[int, int]:
        """First and last row (of `row_steps`) that a finding covers; to the end where a loss, a cause or a non-finite
        value never recovers. A symptom covers SYMPTOM_ROWS at most: what departs later departs by itself."""
        lo = self._row(f.onset_step)
        if f.recovery_step is not None:
            hi = self._row(f.recovery_step)
        elif f.outcome in (DIVERGED, UNRESOLVED):
            hi = self._t.row_steps.size
        else:
            hi = self._row(f.peak_step)
        if f.role == "symptom" and not is_core(f):
            hi = min(hi, lo + SYMPTOM_ROWS)
        return lo, max(lo, hi)

    def accepts(self, f: Finding) -> bool:
        """Whether a finding is close enough in time, before or after."""
        lo, hi = self.span(f)
        lead = CAUSE_LEAD_ROWS if f.role == "cause" else LEAD_ROWS
        group_lead = CAUSE_LEAD_ROWS if all(g.role == "cause" for g in self.findings) else LEAD_ROWS
        return lo <= self.hi + (group_lead if lo > self.hi else 0) and hi + lead >= self.lo

    def add(self, f: Finding) -> None:
        """Add a finding; only the loss and causes widen the rows that are covered."""
        lo, hi = self.span(f)
        self.findings.append(f)
        if is_core(f):
            self.hi = max(self.hi, hi)
        if is_core(f) or f.role == "cause":
            self.lo = min(self.lo, lo)


def is_core(f: Finding) -> bool:
    """Whether it is on the loss: the other findings are grouped around those."""
    return f.column == "loss"


def group_into_incidents(t: Telemetry, findings: Iterable[Finding]) -> tuple[DetectedIncident, ...]:
    """Group by time: first the findings on the loss, then the other columns' around them, the rest among themselves."""
    ordered = sorted(findings, key=lambda f: (f.onset_step, f.detector, f.column))
    groups: list[_Group] = []
    _distribute([f for f in ordered if is_core(f)], groups, _same_loss_event, t)
    rest: list[Finding] = []
    for f in [f for f in ordered if not is_core(f)]:
        group = next((g for g in groups if g.accepts(f)), None)
        if group is None:
            rest.append(f)
        else:
            group.add(f)
    without_loss: list[_Group] = []
    _distribute(rest, without_loss, _Group.accepts, t)
    together = _beyond_noise(t, groups)
    opened = [
        _incident(t, g.findings)
        for g in (*groups, *without_loss)
        if any(g is h for h in together) or _opens(t, g.findings)
    ]
    return tuple(sorted(opened, key=lambda i: (-i.severity, i.onset_step)))


def _beyond_noise(t: Telemetry, groups: Sequence[_Group]) -> list[_Group]:
    """The groups whose findings on the loss are brief, and so many within `CLOSE_ROWS` as noise hardly makes.

    Noise that makes one of them in m runs makes k of them in k! · m^k runs (Poisson), m of the least, and close to each
    other in more.
    """
    runs = [(min((f.noise_runs for f in g.findings if f.opens and f.brief), default=0.0), g) for g in groups]
    runs = sorted(((m, g) for m, g in runs if m > 1), key=lambda pair: pair[1].findings[0].onset_step)
    rows = np.searchsorted(t.row_steps, [g.findings[0].onset_step for _, g in runs])
    beyond: list[_Group] = []
    for close in np.split(np.arange(len(runs)), np.flatnonzero(np.diff(rows) > CLOSE_ROWS) + 1):
        likely = sorted((runs[i] for i in close.tolist()), key=lambda pair: -pair[0])
        enough = [k for k, (m, _) in enumerate(likely, 1) if k > 1 and _runs_of(k, m) > math.log(TAIL_RUNS)]
        beyond += [g for _, g in likely[: max(enough, default=0)]]
    return beyond


def _runs_of(k: int, m: float) -> float:
    """The logarithm of k! · m^k."""
    return k * math.log(m) + math.lgamma(k + 1)


def _opens(t: Telemetry, findings: Sequence[Finding]) -> bool:
    """Whether any of them opens an incident: by itself, or because another column departs in the same row."""
    opening = [f for f in findings if f.opens]
    if any(not f.brief for f in opening):
        return True
    row = {f.column: int(np.searchsorted(t.row_steps, f.onset_step)) for f in findings}
    return any(
        abs(row[f.column] - row[g.column]) <= TOGETHER_ROWS and f.column != g.column for f in opening for g in findings
    ) or any(_has_witness(t, f) for f in opening)


def _has_witness(t: Telemetry, f: Finding) -> bool:
    """Whether a column that other code computes leaves its own noise in the rows of a brief finding."""
    first, last = np.searchsorted(t.row_steps, (f.onset_step, f.peak_step))
    past = t.row_steps[max(first - WITNESS_ROWS, 0) : first]
    inside = t.row_steps[first : last + TOGETHER_ROWS + 1]
    if past.size < FEWEST_WITNESS_ROWS:
        return False
    for name in (name for name in WITNESSES if name != f.column):
        column = t.series(name)
        before = None if column is None else column.window(int(past[0]), f.onset_step)
        rows = None if column is None else column.window(int(inside[0]), int(inside[-1]) + 1)
        if before is None or rows is None or len(before) < FEWEST_WITNESS_ROWS or not len(rows):
            continue
        if np.isfinite(before.value).all() and measure_departure(before, rows, sign=1).moved:
            return True
    return False


def _distribute(
    findings: Iterable[Finding], groups: list[_Group], belongs: Callable[[_Group, Finding], bool], t: Telemetry
) -> None:
    """Add each finding to the first group that it belongs to, else to a new one."""
    for f in findings:
        group = next((g for g in groups if belongs(g, f)), None)
        if group is None:
            groups.append(_Group(f, t))
        else:
            group.add(f)


def _same_loss_event(group: _Group, f: Finding) -> bool:
    """Whether a finding on the loss begins before the group's event is over."""
    lo, _ = group.span(f)
    return lo < group.hi or lo == group.lo or (f.role == "fatal" and lo <= group.hi)


def primary(findings: Sequence[Finding]) -> Finding:
    """The finding that gives the incident its peak, recovery and outcome: a non-finite loss, else what the loss shows
    of a cause, the loss excursion with the worst outcome, else the first finding that may open an incident."""
    order = (RECOVERED, UNRESOLVED, LINGERING, DIVERGED)
    fatal = [f for f in findings if f.role == "fatal" and f.outcome != RECOVERED]
    if fatal:
        return min(fatal, key=lambda f: (f.column != "loss", f.onset_step))
    loss = [f for f in findings if is_core(f)]
    if loss:
        return min(loss, key=lambda f: (_ROLES_ON_LOSS.index(f.role), -order.index(f.outcome), f.onset_step))
    opening = [f for f in findings if f.opens] or list(findings)
    return min(opening, key=lambda f: (f.role == "minor", f.precursor, f.onset_step))


def _without_twins(findings: list[Finding]) -> list[Finding]:
    """Of two rules that followed one column to the same peak, only the finding with the earlier onset."""
    earliest: dict[tuple[str, str, int], Finding] = {}
    for f in sorted(findings, key=lambda f: (f.onset_step, f.detector != "loss_spike")):
        earliest.setdefault((f.column, f.kind, f.peak_step), f)
    return list(earliest.values())


def _incident(t: Telemetry, findings: list[Finding]) -> DetectedIncident:
    order = sorted(_without_twins(findings), key=lambda f: (f.precursor, f.onset_step, f.column == "loss", f.detector))
    ordered = tuple(order)
    main, first = primary([f for f in ordered if not _is_return(t, f, ordered)]), ordered[0]
    return DetectedIncident(
        kind=main.kind,
        onset_step=first.onset_step,
        onset_interval=first.onset_interval,
        peak_step=_peak_step(t, main, ordered),
        recovery_step=main.recovery_step,
        outcome=main.outcome,
        severity=max(_severity(f) for f in ordered if f.opens or f is main),
        suspected=main.suspected,
        attempt=bisect_right(t.restarts, first.onset_step),
        discarded=False,
        findings=ordered,
        title=_title(main),
    )


def _peak_step(t: Telemetry, main: Finding, findings: Sequence[Finding]) -> int:
    """The row of a column that is furthest from its baseline, from its onset until it settles, or to the last row:
    further than one rule follows it, and whichever rule found it. What measures nothing has the peak that it says."""
    column = t.series(main.column)
    measured = math.isfinite(main.peak) and math.isfinite(main.baseline) and main.peak != main.baseline
    if (
        column is None
        or not measured
        or main.role == "fatal"
        or (main.declared and main.declared.measures == "nothing")
    ):
        return main.peak_step
    if is_core(main) and main.peak < main.baseline:  # a repeated batch lowers it, and is over before the loss returns
        return main.peak_step
    sign = 1.0 if main.peak > main.baseline else -1.0
    lasting = main.recovery_step is None and main.outcome in (DIVERGED, UNRESOLVED)
    first = min(f.onset_step for f in findings if f.column == main.column)
    rows = column.window(first, int(column.step[-1]) + 1 if lasting else main.recovery_step or main.peak_step + 1)
    finite = np.isfinite(rows.value)
    if not finite.any():
        return main.peak_step
    return int(rows.step[np.argmax(np.where(finite, sign * rows.value, -np.inf))])


def _title(main: Finding) -> str:
    """The kind as people read it; of a non-finite value that is not the loss, with the name of its column."""
    if main.role == "fatal" and not is_core(main):
        return f"non-finite {main.column}"
    return main.kind.replace("_", " ") if main.declared is None else main.declared.title


def _is_return(t: Telemetry, f: Finding, findings: Sequence[Finding]) -> bool:
    """Whether a loss excursion is only the return from a repeated batch that was memorized: it starts from the lower
    level, and ends near what was usual before the repeat."""
    repeat = next((g for g in findings if g.kind == "repeated_batch" and g.onset_step <= f.onset_step), None)
    loss = t.series("loss")
    if repeat is None or loss is None or not is_core(f) or f.role == "fatal":
        return False
    before = loss.window(0, repeat.onset_step).value[-_USUAL_ROWS:]
    before = before[np.isfinite(before)]
    return before.size > 0 and f.peak <= float(before.max()) + 3 * f.scale


def _severity(f: Finding) -> float:
    """The tier of a finding, plus its size in [0, 0.98] (see `DetectedIncident`)."""
    if f.role == "fatal":
        if f.outcome == RECOVERED:
            return _FATAL_LOSS_RECOVERED if is_core(f) else _FATAL_RECOVERED
        if f.suspected:
            return _FATAL_UNRESOLVED if f.outcome == UNRESOLVED else _FATAL_SUSPECTED
        return _FATAL
    if f.role == "minor":
        return _MINOR
    size = _SIZE_SHARE * float(1 - np.exp(-abs(f.figures.get("height", 1.0))))
    if is_core(f) or f.column == "eval_loss":
        return _TIERS[f.outcome] + size
    return (_TIERS[RECOVERED if f.outcome == RECOVERED else LINGERING] if f.role == "cause" else _SYMPTOM_TIER) + size
