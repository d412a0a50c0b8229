"""Panel 6, dead units: whether more units died or saturated than before."""

from __future__ import annotations

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import (
    column_names,
    departure_figures,
    departure_text,
    moved_columns,
)

LEAST_SHARE = 0.05  # of the units, that must have died


def _measure(case: Case) -> list[Observation]:
    moved, columns = moved_columns(case, case.family("dead_frac/"), sign=1)
    if not columns:
        return []
    many = [d for d in moved if d.value - d.baseline > LEAST_SHARE]
    if not many:
        text = f"{'hardly' if moved else 'no'} more dead units than before: {column_names(columns)}"
        return [Observation("dead_units.flat", text, columns[0], case.onset, moved=False)]
    text = departure_text(many[0])
    return [Observation("dead_units.moved", text, many[0].column, many[0].step, departure_figures(many[0]))]


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
        "dead_units.nonfinite",
    ),
    nonfinite="dead_units.nonfinite",
)
