"""Panel 8, the optimizer's state: whether moments and step count are continuous or were reset."""

from __future__ import annotations

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import (
    departure_figures,
    departure_text,
    finite_departure,
    first_nonfinite,
)
from postmortem.text import number

_MOMENTS = ("adam_m_norm", "adam_v_norm")  # a step count that goes on says nothing of them: it may be set by itself


def _measure(case: Case) -> list[Observation]:
    findings = [f for f in case.incident.findings if f.kind == "optimizer_state_discontinuity"]
    resets = [f for f in findings if f.column != "update_rms"]
    observations: list[Observation] = []
    if resets:
        parts = [
            f"{f.column} falls from {number(f.baseline)} to {number(f.peak)} at step {f.peak_step}" for f in resets[:3]
        ]
        figures = {
            f"{f.column}_{end}": value for f in resets for end, value in (("before", f.baseline), ("after", f.peak))
        }
        first = resets[0]
        observations.append(Observation("moments.reset", "; ".join(parts), first.column, first.onset_step, figures))
    elif not findings:  # an update that other moments made says more than norms that look as before
        names = [n for n in (*_MOMENTS, "optimizer_step") if _continues(case, n)]
        if names:
            text = f"{', '.join(names)}: continuous across the onset"
            lost = case.pieces_lost - {
                "rng"
            }  # where the resume lost another piece, moments that came back excuse nothing
            slug = "moments.restored" if lost and "optimizer" not in lost else "moments.continuous"
            slug = slug if set(names) & set(_MOMENTS) else "moments.count_continues"
            observations.append(Observation(slug, text, names[0], case.onset, moved=False))
    before = (case.onset - 8 * case.row_step, case.onset + case.row_step)
    ratio = finite_departure(case, "g2_over_v", before, sign=1)
    if ratio is not None and ratio.moved and ratio.value > 2:
        text = f"{departure_text(ratio)}: v underestimates the gradient"
        observations.append(Observation("moments.stale", text, "g2_over_v", ratio.step, departure_figures(ratio)))
    return observations


def _continues(case: Case, name: str) -> bool:
    """Whether the column has finite rows before the onset, and from there on, of which the first is as usual."""
    series = case.series(name)
    goes_on = series is not None and len(series) > 0 and int(series.step[-1]) >= case.onset
    if not goes_on or case.baseline(name) is None or first_nonfinite(case, name) is not None:
        return False
    first = case.departure(name, (case.onset, case.onset + case.row_step))
    return first is None or not (first.moved or first.several)


PANEL = Panel(
    8,
    "optimizer_state",
    "Optimizer state",
    ("adam_m_norm", "adam_v_norm", "optimizer_step", "g2_over_v"),
    _measure,
    "whether moments survived the resume (optimizer reset): log adam_m_norm, adam_v_norm and optimizer_step",
    log_scale=True,
    observes=(
        "moments.reset",
        "moments.continuous",
        "moments.count_continues",
        "moments.restored",
        "moments.stale",
        "moments.nonfinite",
    ),
    nonfinite="moments.nonfinite",
)
