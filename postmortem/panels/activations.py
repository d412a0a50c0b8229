"""Panel 4, activations by layer: which layer moved first, and whether half precision could still hold them."""

from __future__ import annotations

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import compared, departed, figures, order

HALF_MAX = 65504.0  # largest finite IEEE half


def _measure(case: Case) -> list[Observation]:
    moved, count = departed(case, (*case.family("act_rms/"), *case.family("act_max/")), sign=1)
    if not count:
        return []
    moved = [d for d in moved if not d.ratio < 1.3]
    if not moved:
        return [Observation("activations.flat", f"none of {count} columns moved", step=case.onset, moved=False)]
    largest = max(moved, key=lambda d: d.ratio)
    text = f"{largest.column} {compared(largest)}; layers in the order in which they moved: {order(moved)}"
    seen = [Observation("activations.moved", text, largest.column, moved[0].first_step, figures(largest))]
    dtype = (case.run.manifest.dtype or "fp16").lower()
    high = [
        d
        for d in moved
        if d.column.startswith("act_max/") and d.value >= 0.9 * HALF_MAX and "16" in dtype and "b" not in dtype
    ]
    if high:
        text = f"{high[0].column} reaches {compared(high[0])}: half precision ends at 65,504"
        seen.append(Observation("activations.half_range", text, high[0].column, high[0].first_step, figures(high[0])))
    return seen


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
        "activations.moved",
        "activations.half_range",
    ),
)
