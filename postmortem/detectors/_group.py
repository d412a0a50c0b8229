"""Findings of all panels, put together into incidents, worst first."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np

from postmortem.detectors._model import DIVERGED, LINGERING, RECOVERED, UNRESOLVED, DetectedIncident, Finding, Telemetry

LEAD_ROWS, CAUSE_LEAD_ROWS = 8, 50
"""How far ahead of the loss a symptom may move (papers report 1 to 8 steps), and a cause (optimizer, schedule, data,
loss scale: GLM-130B's fell about 30 steps ahead)."""

_TIERS = {RECOVERED: 2, LINGERING: 3, UNRESOLVED: 4, DIVERGED: 5}


class _Group:
    def __init__(self, f: Finding, t: Telemetry) -> None:
        self.findings = [f]
        self._t = t
        self.lo, self.hi = self.span(f)

    def _row(self, step: int) -> int:
        return int(np.searchsorted(self._t.row_steps, step))

    def span(self, f: Finding) -> tuple[int, int]:
        """First and last row (of `row_steps`) that a finding covers; to the end where it never recovers."""
        lo = self._row(f.onset_step)
        if f.recovery_step is not None:
            hi = self._row(f.recovery_step)
        elif f.outcome in (DIVERGED, UNRESOLVED):
            hi = self._t.row_steps.size
        else:
            hi = self._row(f.peak_step)
        return lo, max(lo, hi)

    def takes(self, f: Finding) -> bool:
        lo, hi = self.span(f)
        lead = CAUSE_LEAD_ROWS if f.role == "cause" else LEAD_ROWS
        mine = CAUSE_LEAD_ROWS if all(g.role == "cause" for g in self.findings) else LEAD_ROWS
        return lo <= self.hi + (mine if lo > self.hi else 0) and hi + lead >= self.lo

    def take(self, f: Finding) -> None:
        lo, hi = self.span(f)
        self.findings.append(f)
        if is_core(f):
            self.hi = max(self.hi, hi)
        if is_core(f) or f.role == "cause":
            self.lo = min(self.lo, lo)


def is_core(f: Finding) -> bool:
    """Loss excursions and non-finite losses are what others gather around."""
    return f.column == "loss"


def incidents(t: Telemetry, findings: Iterable[Finding]) -> tuple[DetectedIncident, ...]:
    """Group by time: first the loss's own findings, then every other panel's around them, the rest among themselves."""
    ordered = sorted(findings, key=lambda f: (f.onset_step, f.detector, f.column))
    groups: list[_Group] = []
    for f in [f for f in ordered if is_core(f)]:
        home = next((g for g in groups if _same_loss_event(g, f)), None)
        if home is None:
            groups.append(_Group(f, t))
        else:
            home.take(f)
    others: list[Finding] = []
    for f in [f for f in ordered if not is_core(f)]:
        home = next((g for g in groups if g.takes(f)), None)
        if home is None:
            others.append(f)
        else:
            home.take(f)
    rest: list[_Group] = []
    for f in others:
        home = next((g for g in rest if g.takes(f)), None)
        if home is None:
            rest.append(_Group(f, t))
        else:
            home.take(f)
    made = [_incident(t, g.findings) for g in (*groups, *rest) if any(f.opens for f in g.findings)]
    return tuple(sorted(made, key=lambda i: (-i.severity, i.onset_step)))


def _same_loss_event(group: _Group, f: Finding) -> bool:
    lo, _ = group.span(f)
    return lo < group.hi or lo == group.lo or (f.role == "fatal" and lo <= group.hi)


def primary(findings: Sequence[Finding]) -> Finding:
    """The finding whose peak, recovery and outcome the incident takes: a non-finite loss, else the loss excursion that
    fared worst, else the first of the findings that may open an incident."""
    order = (RECOVERED, UNRESOLVED, LINGERING, DIVERGED)
    fatal = [f for f in findings if f.role == "fatal" and f.outcome != RECOVERED]
    if fatal:
        return min(fatal, key=lambda f: (f.column != "loss", f.onset_step))
    loss = [f for f in findings if is_core(f)]
    if loss:
        return min(loss, key=lambda f: (f.role != "fatal", -order.index(f.outcome), f.onset_step))
    opening = [f for f in findings if f.opens] or list(findings)
    return min(opening, key=lambda f: (f.role == "minor", f.onset_step))


def _told_once(findings: list[Finding]) -> list[Finding]:
    """Two rules that followed one column to the same peak say one thing: the earlier onset says it."""
    earliest: dict[tuple[str, str, int], Finding] = {}
    for f in sorted(findings, key=lambda f: (f.onset_step, f.detector != "loss_spike")):
        earliest.setdefault((f.column, f.kind, f.peak_step), f)
    return list(earliest.values())


def _incident(t: Telemetry, findings: list[Finding]) -> DetectedIncident:
    ordered = tuple(sorted(_told_once(findings), key=lambda f: (f.onset_step, f.column == "loss", f.detector)))
    main, first = primary([f for f in ordered if not _comes_back(t, f, ordered)]), ordered[0]
    return DetectedIncident(
        kind=main.kind,
        onset_step=first.onset_step,
        onset_interval=first.onset_interval,
        peak_step=main.peak_step,
        recovery_step=main.recovery_step,
        outcome=main.outcome,
        severity=max(_severity(f) for f in ordered if f.opens or f is main),
        suspected=main.suspected,
        attempt=bisect_right(t.restarts, first.onset_step),
        discarded=False,
        findings=ordered,
        title=_title(main, ordered),
    )


def _title(main: Finding, findings: Sequence[Finding]) -> str:
    """The kind as people read it; of a value that is not finite, and is not the loss, which column holds it."""
    if main.role == "fatal" and main.declared is not None and all(not is_core(f) for f in findings):
        return f"non-finite {findings[0].column}"
    return main.kind.replace("_", " ") if main.declared is None else main.declared.title


def _comes_back(t: Telemetry, f: Finding, findings: Sequence[Finding]) -> bool:
    """Whether a loss excursion is only the return from a repeated batch that was memorised: it starts from the lower
    level, and ends near what was usual before the repeat."""
    repeat = next((g for g in findings if g.kind == "repeated_batch" and g.onset_step <= f.onset_step), None)
    loss = t.series("loss")
    if repeat is None or loss is None or not is_core(f) or f.role == "fatal":
        return False
    before = loss.window(0, repeat.onset_step).value[-48:]
    before = before[np.isfinite(before)]
    return before.size > 0 and f.peak <= float(before.max()) + 3 * f.scale


def _severity(f: Finding) -> float:
    if f.role == "fatal":
        if f.outcome == RECOVERED:
            return 3.5 if is_core(f) else 1.9
        if f.suspected:
            return 2.5 if f.outcome == UNRESOLVED else 4.9
        return 5.99
    if f.role == "minor":
        return 0.5
    size = 0.98 * float(1 - np.exp(-abs(f.figures.get("height", 1.0))))
    if is_core(f):
        return _TIERS[f.outcome] + size
    return (_TIERS[RECOVERED if f.outcome == RECOVERED else LINGERING] if f.role == "cause" else 1) + size
