"""Caveats of a run that was read: gaps in its steps, and blank or non-finite losses."""

from __future__ import annotations

import numpy as np

from postmortem.run.model import Run
from postmortem.series import Steps

_GAP = 3  # times the distance of the rows before and after it


def caveats(run: Run, display_name: str) -> tuple[str, ...]:
    """Notes on the effective history, one sentence each. `display_name` names the file of the rows."""
    notes = [*_gaps(run.row_steps, display_name)]
    loss = run.series("loss")
    if loss is None:
        return tuple(notes)
    if len(loss) < run.row_steps.size:
        blank = run.row_steps[~np.isin(run.row_steps, loss.step, assume_unique=True)]
        notes.append(
            f"{display_name}: loss is blank in {blank.size} of {run.row_steps.size} steps, the first is {blank[0]}: "
            "read as not logged"
        )
    broken = loss.step[~np.isfinite(loss.value)]
    if broken.size:
        notes.append(
            f"{display_name}: loss is NaN or infinite in {broken.size} of {len(loss)} steps, the first is {broken[0]}: "
            "read as a non-finite loss"
        )
    return tuple(notes)


def _gaps(steps: Steps, display_name: str) -> list[str]:
    """A note on stretches without a row, compared with the rows around them: another logging interval is no gap."""
    apart = np.diff(steps)
    if apart.size < 2 or apart.max() <= _GAP * apart.min():
        return []
    before, after = np.r_[apart[1], apart[:-1]], np.r_[apart[1:], apart[-2]]
    wide = np.flatnonzero(apart > _GAP * np.maximum(before, after))
    if not wide.size:
        return []
    widest = wide[np.argmax(apart[wide])]
    where = f"between steps {steps[widest]} and {steps[widest + 1]}"
    gaps = f"no row {where}" if wide.size == 1 else f"{wide.size} gaps in the steps, the widest {where}"
    return [f"{display_name}: {gaps}: nothing is assumed about what happened there"]
