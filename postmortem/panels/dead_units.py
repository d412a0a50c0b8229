"""Panel 6, dead units and saturation."""

from __future__ import annotations

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import compared, departed, figures


def _measure(case: Case) -> list[Observation]:
    moved, count = departed(case, case.family("dead_frac/"), sign=1)
    if not count:
        return []
    moved = [d for d in moved if d.value - d.baseline > 0.05]
    if not moved:
        return [
            Observation(
                "dead_units.flat", f"no more dead units than before in {count} layers", step=case.onset, moved=False
            )
        ]
    text = f"{moved[0].column} {compared(moved[0])}"
    return [Observation("dead_units.moved", text, moved[0].column, moved[0].step, figures(moved[0]))]


PANEL = Panel(
    6,
    "dead_units",
    "Dead units",
    ("dead_frac/*",),
    _measure,
    "whether units died or saturated in the incident (an lr too high): log dead_frac/<layer>",
    unit="share",
    constant_is_silent=False,  # no dead unit in any row is what a sound run shows
    observes=(
        "dead_units.flat",
        "dead_units.moved",
    ),
)
