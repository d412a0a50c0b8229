"""Panel 4, activations by layer: which layer moved first, and whether half precision can represent the values."""

from __future__ import annotations

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import (
    column_names,
    departure_figures,
    departure_text,
    finite_departure,
    moved_columns,
    moving_order,
    unclear,
    unclear_text,
)

HALF_MAX = 65504.0  # largest finite IEEE half


def _measure(case: Case) -> list[Observation]:
    moved, columns = moved_columns(case, (*case.family("act_rms/"), *case.family("act_max/")), sign=1)
    if not columns:
        return []
    moved = [d for d in moved if not d.ratio < 1.3]
    if not moved:
        if (large := unclear(*(finite_departure(case, name) for name in columns))) is not None:
            figures = departure_figures(large)
            return [Observation("activations.unclear", unclear_text(large), large.column, large.step, figures)]
        text = f"{column_names(columns)} did not move"
        return [Observation("activations.flat", text, columns[0], case.onset, moved=False)]
    largest = max(moved, key=lambda d: d.ratio)
    text = f"{departure_text(largest)}; layers in the order in which they moved: {moving_order(moved)}"
    observations = [
        Observation("activations.moved", text, largest.column, moved[0].first_step, departure_figures(largest))
    ]
    dtype = (case.run.manifest.dtype or "fp16").lower()
    high = [
        d
        for d in moved
        if d.column.startswith("act_max/") and d.value >= 0.9 * HALF_MAX and "16" in dtype and "b" not in dtype
    ]
    if high:
        text = f"{departure_text(high[0])}: half precision ends at 65,504"
        observations.append(
            Observation("activations.half_range", text, high[0].column, high[0].first_step, departure_figures(high[0]))
        )
    return observations


PANEL = Panel(
    4,
    "activations",
    "Activations by layer",
    ("act_rms/*", "act_max/*"),
    _measure,
    "which layer moved first, and whether magnitudes neared 65,504: log act_rms/<layer> and act_max/<layer>",
    log_scale=True,
    observes=(
        "activations.flat",
        "activations.unclear",
        "activations.moved",
        "activations.half_range",
        "activations.nonfinite",
    ),
    nonfinite="activations.nonfinite",
)
