"""Panel 6, dead units: whether more units died or saturated than before."""

from __future__ import annotations

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import (
    departure_figures,
    departure_text,
    moved_columns,
)
from postmortem.text import count


def _measure(case: Case) -> list[Observation]:
    moved, layers = moved_columns(case, case.family("dead_frac/"), sign=1)
    if not layers:
        return []
    moved = [d for d in moved if d.value - d.baseline > 0.05]
    if not moved:
        text = f"no more dead units than before in {count(layers, 'layer')}"
        return [Observation("dead_units.flat", text, step=case.onset, moved=False)]
    text = f"{moved[0].column} {departure_text(moved[0])}"
    return [Observation("dead_units.moved", text, moved[0].column, moved[0].step, departure_figures(moved[0]))]


PANEL = Panel(
    6,
    "dead_units",
    "Dead units",
    ("dead_frac/*",),
    _measure,
    "whether units died or saturated in the incident (an lr too high): log dead_frac/<layer>",
    unit="share",
    constant_is_silent=False,  # a sound run has no dead unit in any row
    observes=(
        "dead_units.flat",
        "dead_units.moved",
    ),
)
