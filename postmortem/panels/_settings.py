"""Measures settings that changed in an incident, for the panels of their columns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from postmortem.case import Case, Observation
from postmortem.detectors import Finding
from postmortem.panels._measuring import grouped
from postmortem.text import times

SAME = 1e-3  # share within which the norm after clipping is the norm before it: a log prints three digits or more


def clip_changes(case: Case) -> Iterator[Observation]:
    """That gradients are clipped elsewhere since a step, or not at all."""
    for f in _changes(case):
        if f.column == "clip_threshold":
            off = f.peak == 0 or not np.isfinite(f.peak)  # trainers write "none" both ways
            slug = "grad_norm.clip_off" if off else "grad_norm.clip_changed"
            text = f"clip_threshold changes from {_limit(f.baseline)} to {_limit(f.peak)} {where(case, f)}"
            text += _follows(case, f) if off or f.peak > f.baseline else ""
            yield Observation(slug, text, f.column, f.onset_step, _figures(f))


def batch_changes(case: Case) -> Iterator[Observation]:
    """That a batch contains more or less than before, in one sentence of all columns that say so."""
    changes = [f for f in _changes(case) if f.column != "clip_threshold"]
    if changes:
        parts = [
            f"{f.column} changes from {grouped(f.baseline)} to {grouped(f.peak)}{_factor(f)} {where(case, f)}"
            for f in changes
        ]
        first = changes[0]
        yield Observation("data.batch_changed", "; ".join(parts), first.column, first.onset_step, _figures(first))


def _changes(case: Case) -> list[Finding]:
    return [f for f in case.incident.findings if f.kind == "setting_change"]


def where(case: Case, f: Finding) -> str:
    """At which step, and whether the run was resumed there: a setting changes where a program is started again."""
    resumed = case.resume is not None and abs(f.onset_step - case.resume) <= case.row_step
    return f"at step {f.onset_step}" + (", where the run was resumed" if resumed else "")


def _limit(threshold: float) -> str:
    return "none" if not np.isfinite(threshold) else grouped(threshold)


def _follows(case: Case, f: Finding) -> str:
    """Whether the norm after clipping is the norm before it since then, and was not always before."""
    norm, clipped = case.series("grad_norm"), case.series("grad_norm_clipped")
    if norm is None or clipped is None:
        return ""
    step, own, other = np.intersect1d(norm.step, clipped.step, assume_unique=True, return_indices=True)
    same = np.isclose(norm.value[own], clipped.value[other], rtol=SAME, atol=0.0)
    before, after = same[step < f.onset_step], same[step >= f.onset_step]
    if not after.size or not after.all() or before.all():
        return ""
    usual = f"{100 * before.mean():.0f} % of the rows before"
    return f": since then grad_norm_clipped follows grad_norm, which it did in {usual}"


def _factor(f: Finding) -> str:
    return f" ({times(f.peak / f.baseline)})" if f.baseline > 0 else ""


def _figures(f: Finding) -> dict[str, float]:
    return {"value": f.peak, "before": f.baseline, "factor": f.figures["factor"]}
